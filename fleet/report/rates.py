"""Rate and distortion: PSNR and MS-SSIM against bpp, and Bjøntegaard's differences in PSNR and mIoU.

Not here: how a Bjøntegaard difference is computed (`roadbits.codecs.metrics`).
"""

from collections.abc import Sequence

from roadbits.codecs.metrics import RateQuality, bd_rate
from roadbits.fleet.report.charts import Looks, chart, quality_over_rate
from roadbits.fleet.report.markup import Cell, Column, Html, chosen, element, join, section, switch, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun, cheapest_first
from roadbits.fleet.report.palette import legend
from roadbits.fleet.report.wording import signed

REFERENCE = "jpeg"
_TOO_LITTLE = "ranges overlap too little"
_TOO_FEW = "too few points"
_SETUPS = ("CO", "CC")


def rates_section(runs: Sequence[MeasuredRun], looks: Looks) -> Html:
    """Return the distortion charts and the table of Bjøntegaard rates against JPEG."""
    psnr = chart(
        "rate-psnr", quality_over_rate(runs, looks, "PSNR, dB", 2, lambda row: row.psnr_db), "PSNR of delivered frames"
    )
    ms_ssim = chart(
        "rate-msssim",
        quality_over_rate(runs, looks, "MS-SSIM", 4, lambda row: row.ms_ssim),
        "MS-SSIM of delivered frames",
    )
    switches = [
        switch("show", "show", "distortion", [("psnr", "PSNR"), ("msssim", "MS-SSIM")]),
        switch("rate axis", "axis", "rate", [("log", "log"), ("linear", "linear")]),
    ]
    charts = join(
        [
            chosen("distortion", "psnr", psnr, is_first=True),
            chosen("distortion", "msssim", ms_ssim, is_first=False),
        ]
    )
    controls = element("div", join([legend(looks), *switches]), class_="controls")
    pair = element("div", join([element("div", charts), _bd_rates(runs)]), class_="pair")
    return section("rates", "Rate and distortion", controls, pair)


def _bd_rates(runs: Sequence[MeasuredRun]) -> Html:
    """Return how many percent more bits each codec needs than JPEG."""
    with_reference = [run for run in runs if _arms(run, REFERENCE)]
    setups = [setup for setup in _SETUPS if any(setup in arm.miou for run in runs for arm in run.arms)]
    rows: list[list[str | Cell]] = [
        [
            *([run.name] if len(runs) > 1 else []),
            line,
            _difference(run, line, None),
            *(_difference(run, line, setup) for setup in setups),
        ]
        for run in with_reference
        for line in dict.fromkeys(arm.line for arm in run.arms)
        if line != REFERENCE
    ]
    if not rows:
        return element("p", f"No BD-rates: they compare codecs with {REFERENCE}, and no run has both.", class_="note")
    names = ["run", "codec"] if len(runs) > 1 else ["codec"]
    columns = [
        *(Column(name, is_text=True) for name in names),
        Column("BD-rate in PSNR, %"),
        *(Column(f"in mIoU {setup}, %") for setup in setups),
    ]
    seeds = " In mIoU, seeds move these numbers: read them with the error bars." if setups else ""
    note = (
        f"Bits more (+) or fewer (−) than {REFERENCE} at equal quality, mean over the quality that both reach.{seeds}"
    )
    return element("div", join([table(columns, rows), element("p", note, class_="note")]))


def _difference(run: MeasuredRun, line: str, setup: str | None) -> str:
    """Return a line's Bjøntegaard rate in PSNR, or in the mIoU of a setup, or why there is none."""
    curve, reference = (_curve(_arms(run, name), setup) for name in (line, REFERENCE))
    if min(len(curve.rates), len(reference.rates)) < 2:
        return _TOO_FEW
    percent = bd_rate(curve, reference).percent
    return _TOO_LITTLE if percent is None else signed(percent, 1)


def _curve(arms: Sequence[MeasuredArm], setup: str | None) -> RateQuality:
    """Return rate and quality of fixed points; a policy's frames differ in rate, which no point on a curve can show."""
    arms = [arm for arm in arms if arm.is_fixed]
    if setup is None:
        delivered = [arm.upload for arm in arms if arm.upload.delivered]
        return RateQuality([row.bpp for row in delivered], [row.psnr_db for row in delivered])
    measured = [arm for arm in arms if setup in arm.miou]
    return RateQuality([arm.upload.bpp for arm in measured], [arm.miou[setup].mean for arm in measured])


def miou_curve(run: MeasuredRun, line: str, setup: str) -> RateQuality:
    """Return bpp and mIoU of the fixed points of a line of arms, by rising bpp; empty where there are none."""
    return _curve(_arms(run, line), setup)


def _arms(run: MeasuredRun, line: str) -> list[MeasuredArm]:
    return [arm for arm in cheapest_first(run.arms) if arm.line == line]
