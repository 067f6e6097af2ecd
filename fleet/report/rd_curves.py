"""The page of `roadbits rd`: PSNR and MS-SSIM over real bpp, every codec in one figure.

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


def write_rd_curves(points: Sequence[RdPoint], out: Path) -> None:
    """Write the page; the reader sees a point's numbers by pointing at it."""
    images = points[0].images
    qualities: tuple[tuple[str, Callable[[RdPoint], float]], ...] = (
        ("PSNR, dB", lambda point: point.psnr_db),
        ("MS-SSIM, dB", lambda point: -10 * math.log10(max(1 - point.ms_ssim, _WORST))),
    )
    figure = make_subplots(rows=1, cols=2, subplot_titles=[title for title, _ in qualities])
    for number, name in enumerate(dict.fromkeys(point.codec for point in points)):
        mine = [point for point in points if point.codec == name]
        colour, (symbol, _) = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        for column, (title, quality) in enumerate(qualities, 1):
            figure.add_scatter(
                x=[point.bpp for point in mine],
                y=[quality(point) for point in mine],
                name=html.escape(name),
                legendgroup=name,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": colour},
                marker={"symbol": symbol, "size": 8},
                customdata=[html.escape(point.point) for point in mine],
                hovertemplate=f"%{{customdata}}<br>%{{x:.3f}} bpp, {title} %{{y:.2f}}",
                row=1,
                col=column,
            )
    figure.update_xaxes(title="bpp, header included", type="log", minor={"showgrid": True})
    figure.update_layout(
        title=f"Rate and distortion on real bytes, {images} image{'s' * (images != 1)}",
        template="plotly_white",
        height=560,
    )
    write_whole(out, figure.to_html(include_plotlyjs=True).encode())
