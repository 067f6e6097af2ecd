"""A run's results as a table on the terminal.

Not here: the page (`page`).
"""

from collections.abc import Sequence

import rich.box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadbits.fleet.report.measured import MeasuredArm, Spread, best_arm, measured_arms, setups_of
from roadbits.fleet.report.wording import NONE, number, quality, share, spread
from roadbits.fleet.results import Results


def print_results(results: Results, console: Console) -> None:
    """Print one line per arm, the best mIoU of each setup starred, then OO, the notes and the digest."""
    arms = measured_arms(results)
    columns = [setup for setup in setups_of(arms) if setup != "OO"]
    best = {setup: best_arm(arms, setup) for setup in columns}
    table = Table(box=rich.box.SIMPLE_HEAD, title=escape(results.scenario), title_justify="left", pad_edge=False)
    for heading in ("codec", "point"):
        table.add_column(heading, overflow="fold")
    groups = [group.group for group in results.uploads[0].groups] if results.uploads else []
    for heading in ("bpp", "PSNR dB", "MS-SSIM", "delivered", *groups, *(f"{setup} mIoU %" for setup in columns)):
        table.add_column(heading, justify="right")
    for arm in arms:
        table.add_row(*_cells(arm), *(_miou(arm, setup, best[setup]) for setup in columns))
    console.print(table)
    _print_rest(results, arms, columns, console)


def _cells(arm: MeasuredArm) -> list[str]:
    upload = arm.upload
    return [
        escape(upload.codec),
        escape(upload.point),
        number(upload.bpp, 3) if upload.bpp else NONE,
        quality(upload.psnr_db, 2, upload.delivered),
        quality(upload.ms_ssim, 4, upload.delivered),
        share(upload.delivered, upload.frames),
        *(share(group.delivered, group.frames) for group in upload.groups),
    ]


def _miou(arm: MeasuredArm, setup: str, best: MeasuredArm | None) -> str:
    text = spread(arm.miou.get(setup))
    return f"[bold]* {text}[/bold]" if arm is best else text


def _print_rest(results: Results, arms: Sequence[MeasuredArm], columns: Sequence[str], console: Console) -> None:
    ideal: Spread | None = next((arm.miou["OO"] for arm in arms if "OO" in arm.miou), None)
    if ideal is not None:
        console.print(f"OO, originals throughout: {spread(ideal)} % mIoU", highlight=False)
    if columns:
        seeds = sorted({row.seed for row in results.downstream})
        told = "mean ± half the range over seeds" if len(seeds) > 1 else "seed"
        console.print(f"* best of its setup; {told} {', '.join(map(str, seeds))}", highlight=False)
    for note in results.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(f"digest {results.digest}", highlight=False, soft_wrap=True)
