"""The rate-distortion table of `roadbits rd`, for a person and as JSON.

Not here: measuring (`roadbits.codecs.rate_distortion`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from roadbits.codecs.metrics import BdRate
from roadbits.codecs.rate_distortion import RdPoint, without_rates
from roadbits.codecs.timing import SECTIONS, Timing


def print_rd(
    points: Sequence[RdPoint],
    rates: Mapping[str, BdRate],
    console: Console,
    bpp_range: tuple[float, float] | None = None,
) -> None:
    """Print the points and a square of BD-rates, which were taken in a range of rates or over all."""
    table = Table("codec", "point", box=None, header_style="bold")
    of_clips, seen = points[0].flicker is not None, points[0].distance is not None
    optional = [*(["flicker"] if of_clips else []), *(["feature distance"] if seen else [])]
    for column in ("bpp", "PSNR dB", "MS-SSIM", *optional, "encode ms", "decode ms"):
        table.add_column(column, justify="right")
    for point in points:
        table.add_row(
            point.codec,
            point.point,
            f"{point.bpp:.4f}",
            f"{point.psnr_db:.2f}",
            f"{point.ms_ssim:.4f}",
            *([f"{point.flicker:.3f}"] if point.flicker is not None else []),
            *([f"{point.distance:.4f}"] if point.distance is not None else []),
            f"{1e3 * point.encode_s:.1f}",
            f"{1e3 * point.decode_s:.1f}",
        )
    console.print(table)
    if bpp_range and (left_out := without_rates(points, bpp_range)):
        console.print(f"no curve between {bpp_range[0]:g} and {bpp_range[1]:g} bpp: {', '.join(left_out)}")
    if rates:
        console.print(_square(rates))
        between = f" between {bpp_range[0]:g} and {bpp_range[1]:g} bpp" if bpp_range else ""
        told = f"mean rate at equal PSNR, row against column, over the shared PSNR range{between}"
        console.print(told, style="dim")


def print_timings(timings: Sequence[Timing], console: Console) -> None:
    """Print seconds per megapixel, in all and by section."""
    table = Table("codec", "s/Mpx", box=None, header_style="bold")
    for column in ("threads", "encode", *SECTIONS, "decode", *SECTIONS):
        table.add_column(column, justify="right")
    for timing in timings:
        table.add_row(
            timing.codec,
            timing.point,
            str(timing.threads),
            *_seconds(timing.encode_s, timing.encode_sections_s),
            *_seconds(timing.decode_s, timing.decode_sections_s),
        )
    console.print(table)


def _seconds(in_all: float, sections: Mapping[str, float]) -> tuple[str, ...]:
    return f"{in_all:.3f}", *(f"{sections[name]:.3f}" if name in sections else "" for name in SECTIONS)


def _square(rates: Mapping[str, BdRate]) -> Table:
    names = list(dict.fromkeys(key.split(" vs ")[0] for key in rates))
    table = Table("BD-rate %", box=None, header_style="bold")
    for name in names:
        table.add_column(name, justify="right")
    for row in names:
        table.add_row(row, *(_percent(rates.get(f"{row} vs {column}")) for column in names))
    return table


def _percent(rate: BdRate | None) -> str:
    if rate is None:
        return "-"
    return "no overlap" if rate.percent is None else f"{rate.percent:+.1f}"


def rd_json(points: Sequence[RdPoint], rates: Mapping[str, BdRate], timings: Sequence[Timing] = ()) -> dict[str, Any]:
    """Return the content of `rd --json`."""
    return {
        "points": [asdict(point) for point in points],
        "bd_rate_percent": {name: rate.percent for name, rate in rates.items()},
        "bd_rate_overlap": {name: round(rate.overlap, 4) for name, rate in rates.items()},
        **({"timings": [asdict(timing) for timing in timings]} if timings else {}),
    }
