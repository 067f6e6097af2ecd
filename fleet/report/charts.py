"""The charts, drawn by plotly in the reader's browser from figures that are built here.

Names in figures are escaped, since plotly reads a little HTML in its texts.

Not here: which numbers (`measured`), the script that draws (`page-script.html`).
"""

import html
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from roadbits.fleet.report.markup import Html, data, element, join
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun, Spread, cheapest_first
from roadbits.fleet.report.palette import Look
from roadbits.fleet.report.wording import number, percent, spread
from roadbits.fleet.results import Timeline, UploadRow

Looks = dict[tuple[str, str], Look]


class Quantity(NamedTuple):
    """What arms are compared by.

    Attributes:
        name: with its unit.
        of: its value for an arm, None where there is none.
        told: its value in words.
    """

    name: str
    of: Callable[[MeasuredArm], float | None]
    told: Callable[[MeasuredArm], str]


_GRID = "rgba(128,128,128,0.22)"
_BAND = "rgba(128,128,128,0.16)"
_FAINTEST = 0.35
_CLOSE = 1.6
"""More than lies between any two ticks of less than a decade."""
_DECADE = 10.0


def chart(identity: str, figure: Any, title: str) -> Html:
    """Return a figure for the page: a titled box and the figure's JSON for the script."""
    values = json.loads(figure.to_json())
    height = f"min-height:{values['layout']['height']}px"
    box = element("div", id=identity, class_="chart", role="img", aria_label=title, style=height)
    figure_data = data(f"{identity}-figure", {"data": values["data"], "layout": values["layout"]})
    return element("figure", join([element("figcaption", title), box, figure_data]), class_="plot")


def miou_over_rate(runs: Sequence[MeasuredRun], looks: Looks, setup: str, span: tuple[float, float]) -> Any:
    """Return mIoU in percent over rate for one setup, each run's OO as a band; `span` is the vertical axis.

    The rate is bpp where all arms send as many frames, else bytes per hour of driving.
    """
    alike = all(run.sends_alike for run in runs)
    figure = plain_figure("bpp of the uploads" if alike else "MB per vehicle-hour", "mIoU, %", log_x=True)
    for run, line, arms in _curves(runs):
        measured = [arm for arm in arms if setup in arm.miou]
        if not measured:
            continue
        values = [arm.miou[setup] for arm in measured]
        bars = {
            "array": [100 * (each.high - each.mean) for each in values],
            "arrayminus": [100 * (each.mean - each.low) for each in values],
        }
        figure.add_scatter(
            x=[arm.upload.bpp if alike else arm.megabytes_per_vehicle_hour for arm in measured],
            y=[100 * each.mean for each in values],
            error_y={"type": "data", "symmetric": False, "thickness": 1.2, "width": 3, **bars},
            customdata=[_told_miou(run, arm, setup) for arm in measured],
            **_styled(looks[run.name, line], arms),
        )
    for k, run in enumerate(runs):
        if run.ideal is not None:
            _add_ideal(figure, run.ideal, f"OO {run.name}" if len(runs) > 1 else "OO", k / len(runs))
    figure.update_yaxes(range=span)
    label_rates(figure)
    return figure


def miou_span(runs: Sequence[MeasuredRun]) -> tuple[float, float]:
    """Return a vertical axis in percent that holds every mIoU of the runs with a little air."""
    values = [each for run in runs for arm in run.arms for each in arm.miou.values()]
    low, high = min(each.low for each in values), max(each.high for each in values)
    air = max(0.06 * (high - low), 0.01)
    return 100 * max(0.0, low - air), 100 * min(1.0, high + air)


def quality_over_rate(
    runs: Sequence[MeasuredRun], looks: Looks, axis: str, digits: int, quality: Callable[[UploadRow], float]
) -> Any:
    """Return a distortion over bpp, for the arms that delivered anything."""
    figure = plain_figure("bpp", axis, log_x=True)
    for run, line, arms in _curves(runs):
        delivered = [arm for arm in arms if arm.upload.delivered]
        if delivered:
            figure.add_scatter(
                x=[arm.upload.bpp for arm in delivered],
                y=[quality(arm.upload) for arm in delivered],
                customdata=[_told(run, arm, [f"{axis} {number(quality(arm.upload), digits)}"]) for arm in delivered],
                **_styled(looks[run.name, line], arms),
            )
    label_rates(figure)
    return figure


def compute_over_rate(runs: Sequence[MeasuredRun], looks: Looks, worth: Quantity) -> Any:
    """Return multiply-accumulates of encoding a frame over bpp, markers coloured by what the frames are worth."""
    figure = plain_figure("bpp of the uploads", "GMAC per encoded frame", log_x=True)
    for run, line, arms in _curves(runs):
        shown = [arm for arm in arms if arm.upload.encode_gmac and worth.of(arm) is not None]
        if shown:
            style = _styled(looks[run.name, line], arms)
            colours = {"color": [worth.of(arm) for arm in shown], "coloraxis": "coloraxis", "size": 12}
            style["marker"] = {**style["marker"], **colours}
            figure.add_scatter(
                x=[arm.upload.bpp for arm in shown],
                y=[arm.gmac_per_encoded_frame for arm in shown],
                customdata=[
                    _told(
                        run, arm, [f"{number(arm.gmac_per_encoded_frame, 2)} GMAC per encoded frame", worth.told(arm)]
                    )
                    for arm in shown
                ],
                **style,
            )
    figure.update_layout(
        coloraxis={"colorscale": "Cividis", "colorbar": {"title": {"text": worth.name}, "thickness": 12}}
    )
    figure.update_yaxes(type="log", **_round_ticks([gmac for trace in figure.data for gmac in trace.y]))
    label_rates(figure)
    return figure


def over_time(
    runs: Sequence[MeasuredRun], looks: Looks, axis: str, values: Callable[[Timeline], Sequence[float]]
) -> Any:
    """Return a quantity over virtual time, a line per arm; the cheaper the arm, the fainter."""
    figure = plain_figure("virtual time, s", axis, log_x=False)
    for run in runs:
        for arm in run.arms:
            look, timeline = looks[run.name, arm.line], arm.upload.timeline
            family = [other.upload.bpp for other in run.arms if other.line == arm.line]
            rank = (sorted(family).index(arm.upload.bpp) + 1) / len(family)
            name = html.escape(_arm_name(run, arm, len(runs) > 1))
            figure.add_scatter(
                x=timeline.time_s,
                y=values(timeline),
                mode="lines",
                line={"color": look.colour, "dash": look.dash, "width": 1.8},
                opacity=_FAINTEST + (1 - _FAINTEST) * rank,
                legendgroup=look.key,
                name=name,
                customdata=[name] * len(timeline.time_s),
                hovertemplate="%{customdata}<br>%{x:,.0f} s: %{y:,}<extra></extra>",
            )
    return figure


def plain_figure(x_title: str, y_title: str, *, log_x: bool = False) -> Any:
    """Return an empty figure in the style of the page."""
    figure = go.Figure()
    axis = {"gridcolor": _GRID, "zeroline": False, "linecolor": _GRID, "automargin": True}
    figure.update_layout(
        template="none",
        height=360,
        margin={"l": 56, "r": 16, "t": 30, "b": 48},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8c8c8c", "activecolor": "#0072b2"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="closest",
        showlegend=False,
        xaxis={"title": {"text": x_title}, **axis},
        yaxis={"title": {"text": y_title}, **axis},
    )
    if log_x:
        figure.update_xaxes(type="log", tickmode="array")
    return figure


def label_rates(figure: Any) -> None:
    """Label the logarithmic axis of rates."""
    figure.update_xaxes(**_round_ticks([rate for trace in figure.data for rate in trace.x]))


def _round_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Return round numbers for a logarithmic axis: more of them to a decade where the values span less than one."""
    values = values or [1.0]
    low, high = min(values), max(values)
    steps = (1, 2, 5) if high > _DECADE * low else (1, 1.5, 2, 3, 4, 5, 7)
    ticks = [step * 10.0**power for power in range(-3, 4) for step in steps]
    labels = {"tickvals": ticks, "ticktext": [f"{at:g}" for at in ticks]}
    # Plotly frames close values so closely that no tick is between, and a lone one by a decade or two.
    return labels if high > _CLOSE * low else labels | {"range": [math.log10(low / _CLOSE), math.log10(high * _CLOSE)]}


def _curves(runs: Sequence[MeasuredRun]) -> list[tuple[MeasuredRun, str, list[MeasuredArm]]]:
    """Return each run's lines with their arms by rising bpp: fixed points, which make a curve, then policies."""
    found = [
        (run, line, [arm for arm in cheapest_first(run.arms) if (arm.line, arm.is_fixed) == (line, is_fixed)])
        for run in runs
        for line in dict.fromkeys(arm.line for arm in run.arms)
        for is_fixed in (True, False)
    ]
    return [curve for curve in found if curve[2]]


def _styled(look: Look, arms: Sequence[MeasuredArm]) -> dict[str, Any]:
    return {
        "mode": "lines+markers" if arms[0].is_fixed else "markers",
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {
            "color": look.colour,
            "symbol": look.symbol if arms[0].is_fixed else f"{look.symbol}-open",
            "size": 8 if arms[0].is_fixed else 11,
        },
        "legendgroup": look.key,
        "name": html.escape(look.label),
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _add_ideal(figure: Any, ideal: Spread, label: str, label_at: float) -> None:
    """Draw OO: a band from the lowest to the highest seed, a line at the mean, labelled at a share of its length."""
    across = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    band = {"y0": 100 * ideal.low, "y1": 100 * ideal.high, "fillcolor": _BAND, "line": {"width": 0}}
    line = {"y0": 100 * ideal.mean, "y1": 100 * ideal.mean, "line": {"color": "#8c8c8c", "dash": "dash", "width": 1.5}}
    figure.add_shape(type="rect", **across, **band)
    figure.add_shape(type="line", **across, **line)
    figure.add_annotation(
        text=html.escape(f"{label} {percent(ideal.mean)}"),
        **{"xref": "paper", "x": label_at, "xanchor": "left", "y": 100 * ideal.mean, "yanchor": "bottom"},
        showarrow=False,
        font={"size": 12},
    )


def _told_miou(run: MeasuredRun, arm: MeasuredArm, setup: str) -> str:
    miou = arm.miou[setup]
    seeds = [f"seed {seed}: {percent(value)}" for seed, value in sorted(miou.by_seed.items())]
    return _told(run, arm, [f"{setup} {spread(miou)} % mIoU", *(seeds if len(seeds) > 1 else [])])


def _told(run: MeasuredRun, arm: MeasuredArm, lines: Sequence[str]) -> str:
    """Return what a pointer over a marker reads."""
    rate = f"{number(arm.upload.bpp, 3)} bpp"
    return "<br>".join(
        [f"<b>{html.escape(arm.name)}</b>", html.escape(run.name), rate, *(html.escape(line) for line in lines)]
    )


def _arm_name(run: MeasuredRun, arm: MeasuredArm, names_run: bool) -> str:
    return f"{run.name} · {arm.name}" if names_run else arm.name
