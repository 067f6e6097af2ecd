"""The page of `roadbits rd`: PSNR, MS-SSIM and for clips flicker over real bpp, every codec in one figure.

MS-SSIM is drawn in decibels, -10 log10(1 - MS-SSIM), as the field does: near 1 the plain number hides everything.

Self-contained: plotly.js is in the file.

Not here: the table (`rd_table`).
"""

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from plotly.subplots import make_subplots

from roadbits.codecs.rate_distortion import RdPoint
from roadbits.fleet.report.palette import COLOURS, SYMBOLS
from roadbits.fleet.stages import write_whole

_WORST = 1e-9
_COLUMNS = 2


def write_rd_curves(points: Sequence[RdPoint], out: Path) -> None:
    """Write the page; the reader sees a point's numbers by pointing at it."""
    images, of_clips = points[0].images, points[0].flicker is not None
    qualities: list[tuple[str, Callable[[RdPoint], float | None]]] = [
        ("PSNR, dB", lambda point: point.psnr_db),
        ("MS-SSIM, dB", lambda point: -10 * math.log10(max(1 - point.ms_ssim, _WORST))),
    ]
    if of_clips:
        qualities.append(("flicker, grey levels", lambda point: point.flicker))
    if points[0].distance is not None:
        qualities.append(("feature distance", lambda point: point.distance))
    titles = [title for title, _ in qualities] + ["PSNR over time, dB: the middle point of each"] * of_clips
    rows = -(-len(titles) // _COLUMNS)
    figure = make_subplots(rows=rows, cols=_COLUMNS, subplot_titles=titles)
    for number, name in enumerate(dict.fromkeys(point.codec for point in points)):
        mine = [point for point in points if point.codec == name]
        colour, (symbol, _) = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        look = {"name": html.escape(name), "legendgroup": name, "line": {"color": colour}}
        for place, (title, quality) in enumerate(qualities):
            figure.add_scatter(
                x=[point.bpp for point in mine],
                y=[quality(point) for point in mine],
                showlegend=place == 0,
                mode="lines+markers",
                marker={"symbol": symbol, "size": 8},
                customdata=[html.escape(point.point) for point in mine],
                hovertemplate=f"%{{customdata}}<br>%{{x:.3f}} bpp, {title} %{{y:.2f}}",
                **look,
                **_at(place),
            )
        if of_clips:
            middle = mine[len(mine) // 2]
            figure.add_scatter(
                x=list(range(len(middle.psnr_over_time))),
                y=middle.psnr_over_time,
                showlegend=False,
                mode="lines",
                hovertemplate=f"{html.escape(middle.point)}, frame %{{x}}: %{{y:.2f}} dB",
                **look,
                **_at(len(qualities)),
            )
    for place in range(len(qualities)):
        figure.update_xaxes(title="bpp, header included", type="log", minor={"showgrid": True}, **_at(place))
    if of_clips:
        figure.update_xaxes(title="frame of a clip", **_at(len(qualities)))
    what = "frame" if of_clips else "image"
    figure.update_layout(
        title=f"Rate and distortion on real bytes, {images} {what}{'s' * (images != 1)}",
        template="plotly_white",
        height=120 + 440 * rows,
    )
    write_whole(out, figure.to_html(include_plotlyjs=True).encode())


def _at(place: int) -> dict[str, int]:
    return {"row": place // _COLUMNS + 1, "col": place % _COLUMNS + 1}
