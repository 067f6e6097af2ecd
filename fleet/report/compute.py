"""Rate, compute and mIoU in one picture: what a network asks of a vehicle's computer, and what that is worth.

Not here: the energy and time of encoding, which depend on the device (`delivery`).
"""

from collections.abc import Sequence

from roadbits.fleet.report.charts import Looks, Quantity, chart, compute_over_rate
from roadbits.fleet.report.markup import Html, element, section
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun, setups_of
from roadbits.fleet.report.palette import legend
from roadbits.fleet.report.wording import spread

_WORTH = ("CO", "RO", "CC", "RC")
"""Markers are coloured by the first of these that was measured."""


def compute_section(runs: Sequence[MeasuredRun], looks: Looks) -> Html | None:
    """Return the chart of multiply-accumulates over rate, coloured by mIoU, else by PSNR; None if no arm has any."""
    arms = [arm for run in runs for arm in run.arms if arm.upload.bpp > 0]
    charged = [arm for arm in arms if arm.upload.encode_gmac > 0]
    if not charged:
        return None
    measured = setups_of(charged)
    setup = next((setup for setup in _WORTH if setup in measured), None)
    worth = _psnr() if setup is None else _miou(setup)
    free = len({arm.upload.codec for arm in arms} - {arm.upload.codec for arm in charged})
    note = (
        "Multiply-accumulates of a vehicle's encoder, mean over the frames it encoded, a policy's trials included. "
        "Down and left is cheap, bright is good."
    )
    left_out = " Codecs without networks have none and are left out." if free else ""
    return section(
        "compute",
        "Rate against compute",
        element(
            "div", legend({line: look for line, look in looks.items() if line[1] in _lines(charged)}), class_="controls"
        ),
        chart("compute-rate", compute_over_rate(runs, looks, worth), f"Coloured by {worth.name}"),
        element("p", note + left_out, class_="note"),
    )


def _lines(arms: Sequence[MeasuredArm]) -> set[str]:
    return {arm.line for arm in arms}


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
