"""Rate, compute and mIoU in one picture: what a network asks of a vehicle's computer, and what that is worth.

Not here: energy (`delivery`).
"""

from collections.abc import Sequence

from roadbits.fleet.report.charts import Looks, Quantity, chart, compute_over_rate
from roadbits.fleet.report.markup import Cell, Column, Html, element, section, table
from roadbits.fleet.report.measured import MeasuredRun
from roadbits.fleet.report.palette import legend
from roadbits.fleet.report.segmentation import arm_cells, arm_columns
from roadbits.fleet.report.wording import number, spread

_COLUMNS = (
    Column("bpp"),
    Column("GMAC per encoded frame"),
    Column("encoding, s", "device seconds per encoded frame"),
    Column("latency, s", "capture to arrival, mean over delivered frames"),
    Column("memory, MB", "weights and activations at the most demanding point used"),
)
_WORTH = ("CO", "RO", "CC", "RC")
"""Markers are coloured by the first of these that was measured."""


def compute_section(runs: Sequence[MeasuredRun], looks: Looks) -> Html | None:
    """Return the chart of multiply-accumulates over rate, coloured by mIoU, else by PSNR; None if no arm has any.

    Of a single arm there is only the table.
    """
    travelled = [arm for run in runs for arm in run.arms if arm.upload.bpp > 0]
    charged = [arm for arm in travelled if arm.upload.encode_gmac > 0]
    if not charged:
        return None
    delivered = [arm for arm in charged if arm.upload.delivered]
    setup = next((setup for setup in _WORTH if all(setup in arm.miou for arm in delivered)), None)
    worth = _psnr() if setup is None else _miou(setup)
    note = (
        "Multiply-accumulates of a vehicle's encoder, mean over the frames it encoded, a policy's trials included. "
        "Down and left is cheap, bright is good."
    )
    left_out = " Codecs without networks have none and are left out." if len(charged) < len(travelled) else ""
    lines = {(run.name, arm.line) for run in runs for arm in run.arms if arm.upload.encode_gmac > 0}
    drawn = [
        element("div", legend({key: look for key, look in looks.items() if key in lines}), class_="controls"),
        chart("compute-rate", compute_over_rate(runs, looks, worth), f"Coloured by {worth.name}"),
    ]
    return section(
        "compute",
        "Rate against compute",
        *(drawn if len(charged) > 1 else []),
        element("p", note + left_out, class_="note"),
        _table(runs, worth),
    )


def _table(runs: Sequence[MeasuredRun], worth: Quantity) -> Html:
    """Return what the arms with networks ask of a device, by rising multiply-accumulates."""
    columns = [*arm_columns(runs), *_COLUMNS, Column(worth.name)]
    arms = [(run, arm) for run in runs for arm in run.arms if arm.upload.encode_gmac > 0]
    rows: list[list[str | Cell]] = [
        [
            *arm_cells(runs, run, arm),
            number(arm.upload.bpp, 3),
            number(arm.gmac_per_encoded_frame, 2),
            number(arm.upload.encode_s, 3),
            number(arm.upload.latency_mean_s if arm.upload.delivered else None, 2),
            number(arm.upload.encode_memory_bytes / 1e6, 1),
            number(worth.of(arm), 1),
        ]
        for run, arm in sorted(arms, key=lambda pair: pair[1].gmac_per_encoded_frame or 0)
    ]
    return table(columns, rows)


def _miou(setup: str) -> Quantity:
    return Quantity(
        f"mIoU {setup}, %",
        lambda arm: 100 * arm.miou[setup].mean if setup in arm.miou else None,
        lambda arm: f"{setup} {spread(arm.miou[setup])} % mIoU",
    )


def _psnr() -> Quantity:
    return Quantity(
        "PSNR, dB",
        lambda arm: arm.upload.psnr_db if arm.upload.delivered else None,
        lambda arm: f"PSNR {arm.upload.psnr_db:.2f} dB",
    )
