"""What adaptation saves and what it forgets: rate-distortion before and after, the forgetting matrix, who had it when.

Not here: how the numbers come about (`fleet.adaptation_comparison`).
"""

import html
from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go

from roadbits.fleet.report.charts import chart, label_rates, plain_figure
from roadbits.fleet.report.markup import Cell, Column, Html, element, join, section, table
from roadbits.fleet.report.measured import MeasuredRun, Spread
from roadbits.fleet.report.palette import COLOURS, SYMBOLS
from roadbits.fleet.report.wording import NONE, number, signed
from roadbits.fleet.results import AdaptationRow, SharingNote

MEANINGS = {
    "cawf": "residual adapters and the density; the source codec stays as it is beside them",
    "density": "three numbers of each channel's density; the source codec stays as it is",
    "finetune": "all weights move: another codec takes the source's place",
    "encoder": "the analysis transform moves",
    "decoder": "the synthesis transform moves",
    "replay": "both transforms move, while the decoder goes on to learn the source's latents of its own domain",
    "joint": "all weights move, half of the crops are of the source's domain",
    "scratch": "all weights move, from shuffled ones",
}
_WORST_PERCENT = 20.0
"""A cell of the matrix is darkest from there on."""


def adaptation_section(run: MeasuredRun) -> Html:
    """Return the section of a run that adapts."""
    rows = run.results.adaptation
    note = (
        "BD-rate against the source codec at equal PSNR, real bytes: negative saves bits. "
        f"{_seeds(rows)}A row of the matrix tells what is left of every domain, with all that was learned up to the "
        "domain in bold. Old payloads are those that the source codec had made before: they should decode for ever."
    )
    return section(
        "adaptation",
        f"Adaptation, {run.name}",
        element("div", join([_curves(run, domain) for domain in _domains(run)]), class_="panels"),
        element("h3", "Forgetting"),
        table(_matrix_columns(run), list(_matrix_rows(run))),
        element("p", note, class_="note"),
        *_sharing(run),
    )


def _seeds(rows: Sequence[AdaptationRow]) -> str:
    seeds = sorted({row.seed for row in rows})
    return f"Means over {len(seeds)} seeds, and the range of them. " if len(seeds) > 1 else ""


def _domains(run: MeasuredRun) -> list[str]:
    return list(dict.fromkeys(domain for row in run.results.adaptation for domain in row.bd_rate_on))


def _curves(run: MeasuredRun, domain: str) -> Html:
    """Return PSNR over bpp on one domain's frames, before and after."""
    figure = plain_figure("bpp", "PSNR, dB", log_x=True)
    names = list(dict.fromkeys(curve.codec for curve in run.results.adaptation_curves))
    for curve in run.results.adaptation_curves:
        if curve.domain != domain:
            continue
        k = names.index(curve.codec)
        colour, (symbol, _) = COLOURS[k % len(COLOURS)], SYMBOLS[k % len(SYMBOLS)]
        figure.add_trace(
            go.Scatter(
                x=curve.bpp,
                y=curve.psnr_db,
                name=html.escape(curve.codec),
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": "dash" if curve.codec == "source" else "solid"},
                marker={"symbol": symbol, "size": 8},
                hovertemplate=f"{html.escape(curve.codec)}<br>%{{x:.3f}} bpp, %{{y:.2f}} dB<extra></extra>",
            )
        )
    label_rates(figure)
    figure.update_layout(height=380, showlegend=True)
    return chart(f"adaptation-{run.name}-{domain}", figure, f"On frames of {domain}, before and after")


def _matrix_columns(run: MeasuredRun) -> list[Column]:
    return [
        Column("method", is_text=True),
        Column("learned", "by all vehicles in rounds, by each alone, on the server, or pooled for comparison", True),
        Column("domain", is_text=True),
        *(Column(f"on {domain}, %", f"BD-rate on frames of {domain}") for domain in _domains(run)),
        Column("old payloads, %", "that still decode bit for bit"),
        Column("their PSNR, dB", "change of it; a dash: they cannot be read at all"),
        Column("of the weights, %", "added or changed"),
        Column("bytes", "to hand the result out once"),
        Column("frames", "learned from"),
        Column("traffic, kB", "of adapters and what it took to learn them, up and down, all vehicles"),
        Column("break-even, frames", "of the fleet, until the bytes saved have paid for that traffic"),
        Column("GMAC", "of watching and training on board, all vehicles"),
    ]


def _matrix_rows(run: MeasuredRun) -> Iterator[list[str | Cell]]:
    for rows in _by_seed(run):
        first = rows[0]
        yield [
            Cell(element("span", first.method, title=MEANINGS.get(first.method, ""))),
            first.sharing,
            first.domain,
            *(_change(rows, domain, first.domain) for domain in _domains(run)),
            number(100 * float(np.mean([row.old_payloads_bit_exact for row in rows])), 0),
            _mean_change(rows),
            number(first.parameters_percent, 2),
            number(first.adapter_bytes, 0),
            number(first.frames, 0),
            number(first.traffic_bytes / 1000, 0) if first.traffic_bytes else NONE,
            number(first.break_even_frames, 0),
            number(first.watch_gmac + first.train_gmac, 0) if first.sharing != "pooled" else NONE,
        ]


def _mean_change(rows: Sequence[AdaptationRow]) -> str:
    changes = [row.old_payloads_change_db for row in rows if row.old_payloads_change_db is not None]
    return signed(float(np.mean(changes)), 1) if len(changes) == len(rows) else NONE


def _by_seed(run: MeasuredRun) -> list[list[AdaptationRow]]:
    """Return the rows that differ in their seed alone together."""
    kinds = dict.fromkeys((row.domain, row.sharing, row.method) for row in run.results.adaptation)
    return [[row for row in run.results.adaptation if (row.domain, row.sharing, row.method) == kind] for kind in kinds]


def _change(rows: Sequence[AdaptationRow], domain: str, own: str) -> Cell:
    """Return a cell of the matrix: the deeper its colour, the more is lost; none where bits are saved."""
    values = [row.bd_rate_on[domain] for row in rows if domain in row.bd_rate_on]
    if not values:
        return Cell(NONE)
    mean = float(np.mean(values))
    text = signed(mean, 1)
    if len(values) > 1:
        text += f" ({signed(min(values), 1)} … {signed(max(values), 1)})"
    return Cell(text, shade=min(1.0, max(0.0, mean / _WORST_PERCENT)) or None, is_best=domain == own)


def _sharing(run: MeasuredRun) -> list[Html]:
    """Return what happened in virtual time, a row for each vehicle."""
    notes = [note for note in run.results.adapter_sharing if note.noticed_s]
    if not notes:
        return []
    columns = [
        Column("domain", is_text=True),
        Column("vehicle"),
        Column("noticed at, s"),
        *(Column(f"{note.sharing}: adapter at, s") for note in _of_first_domain(notes)),
    ]
    rows = [
        [
            domain,
            vehicle,
            number(noticed_s, 0),
            *(number(note.equipped_s.get(vehicle), 0) for note in notes if note.domain == domain),
        ]
        for domain, first in {note.domain: note for note in notes}.items()
        for vehicle, noticed_s in first.noticed_s.items()
    ]
    refused = [
        f"Round {one['number']} ({note.domain}): vehicle {vehicle} left out: {reason}."
        for note in notes
        for one in note.rounds
        for vehicle, reason in one["refused"].items()
    ]
    missed = [
        f"Vehicle {vehicle} came into {note.domain} and noticed nothing."
        for note in _one_per_domain(notes)
        for vehicle in note.missed
    ]
    lost = [
        f"Round {one['number']} ({note.domain}) had no quorum: the adapter stayed as it was."
        for note in notes
        for one in note.rounds
        if not one["has_quorum"]
    ]
    return [
        element("h3", "Who had an adapter when"),
        table(columns, rows),
        *(element("p", text, class_="note") for text in (*missed, *refused, *lost)),
    ]


def _of_first_domain(notes: Sequence[SharingNote]) -> list[SharingNote]:
    return [note for note in notes if note.domain == notes[0].domain]


def _one_per_domain(notes: Sequence[SharingNote]) -> list[SharingNote]:
    return list({note.domain: note for note in notes}.values())


def adaptation_sentence(run: MeasuredRun) -> str:
    """Return what adaptation came to in a sentence; empty if there was none."""
    kinds = [rows for rows in _by_seed(run) if rows[0].sharing != "pooled" and all(row.equipped for row in rows)]
    if not kinds:
        return ""
    best = min(kinds, key=lambda rows: _spread(rows, "bd_rate_target").mean)
    change, at_home = _spread(best, "bd_rate_target"), _spread(best, "bd_rate_source").mean
    half_range = f" ± {number(change.half_range, 1)}" if len(best) > 1 else ""
    elsewhere = f"{signed(at_home, 1)} %" if at_home else "as many as ever"
    exact = _spread(best, "old_payloads_bit_exact").mean
    return (
        f"Adapted to {best[0].domain} ({best[0].sharing}), the codec takes {number(abs(change.mean), 1)}{half_range} % "
        f"{'fewer' if change.mean < 0 else 'more'} bits at equal PSNR, {elsewhere} where it served before; "
        f"{number(100 * exact, 0)} % of old payloads decode bit for bit"
    )


def _spread(rows: Sequence[AdaptationRow], quantity: str) -> Spread:
    return Spread({row.seed: getattr(row, quantity) for row in rows})
