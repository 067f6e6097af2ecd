"""What the frames are worth: mIoU against rate, where it was lost, and which classes lost it.

Not here: training and measuring (`roadbits.downstream`).
"""

from collections.abc import Sequence

from roadbits.fleet.report.charts import Looks, chart, miou_over_rate, miou_span
from roadbits.fleet.report.markup import Cell, Column, Html, choice, chosen, element, join, section, switch, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun, best_arm, setups_of
from roadbits.fleet.report.palette import legend
from roadbits.fleet.report.wording import NONE, number, percent, points, spread

MEANINGS = {
    "OO": "trained and tested on originals: the ideal",
    "CO": "trained on uploads, run in the car on the sensor's own frames",
    "RO": "trained on restored uploads, run in the car on the sensor's own frames",
    "CC": "trained on uploads, tested on frames compressed on board",
    "OC": "trained on originals, tested on frames compressed on board",
    "RC": "trained on restored uploads, tested on frames compressed on board",
}


def miou_section(runs: Sequence[MeasuredRun], looks: Looks) -> Html:
    """Return the page's first chart: mIoU against bpp, a panel per setup on one scale."""
    setups = [setup for setup in setups_of(_all_arms(runs)) if setup != "OO"]
    span = miou_span(runs)
    panels = [
        chart(f"miou-{setup}", miou_over_rate(runs, looks, setup, span), f"{setup}: {MEANINGS[setup]}")
        for setup in setups
    ]
    note = (
        "Mean over seeds; bars reach from the lowest to the highest seed. Dashed: OO, its band from lowest to highest. "
        "Click a name to hide its line; point at a marker for each seed."
    )
    axis = switch("rate axis", "axis", "miou", [("log", "log"), ("linear", "linear")])
    controls = element("div", join([legend(looks), axis]), class_="controls")
    grid = element("div", join(panels), class_="panels")
    rate = "bits per pixel" if all(run.sends_alike for run in runs) else "bytes per hour of driving"
    return section("miou", f"mIoU against {rate}", controls, grid, element("p", note, class_="note"))


def decomposition_section(runs: Sequence[MeasuredRun]) -> Html:
    """Return each arm's mIoU per setup, and the loss split into lost information and covariate shift."""
    setups = setups_of(_all_arms(runs))
    columns = [
        *arm_columns(runs),
        Column("bpp"),
        *(Column(f"{setup}, %", MEANINGS[setup]) for setup in setups),
        Column("lost information", "OO − CC: what compression took away for good"),
        Column("covariate shift", "CC − CO: what it costs that test frames look unlike training frames"),
    ]
    rows: list[list[str | Cell]] = []
    for run in runs:
        best = {setup: best_arm(run.arms, setup) for setup in setups if setup != "OO"}
        for arm in run.arms:
            mious = [Cell(spread(arm.miou.get(setup)), is_best=best.get(setup) is arm) for setup in setups]
            losses = [points(arm.lost_information), points(arm.covariate_shift)]
            rows.append([*arm_cells(runs, run, arm), number(arm.upload.bpp or None, 3), *mious, *losses])
    note = (
        "mIoU in percent, mean ± half the range over seeds, the best of each setup in bold; differences in points. "
        "Lost information is OO − CC, covariate shift is CC − CO; what compression costs a fleet that trains on "
        "uploads is their sum, OO − CO."
    )
    if any(arm.restorer for run in runs for arm in run.arms):
        note += " RO and RC are those of each arm's best restorer in RO: see below for all of them."
    return section("decomposition", "Where the mIoU goes", element("p", note, class_="note"), table(columns, rows))


def per_class_section(runs: Sequence[MeasuredRun]) -> Html:
    """Return the IoU of every class in every setup, for an arm that the reader chooses."""
    measured = [(run, arm) for run in runs for arm in run.arms if arm.miou]
    names = [arm.name if len(runs) == 1 else f"{run.name} · {arm.name}" for run, arm in measured]
    options = [(str(k), name) for k, name in enumerate(names)]
    tables = [
        chosen("per-class", str(k), _per_class_table(arm), is_first=k == 0) for k, (_, arm) in enumerate(measured)
    ]
    note = "IoU in percent, mean over seeds; the deeper the colour, the better. A dash: the class did not occur."
    controls = element("div", choice("Codec and operating point", "per-class", options), class_="controls")
    return section("per-class", "IoU per class", controls, *tables, element("p", note, class_="note"))


def arm_columns(runs: Sequence[MeasuredRun]) -> list[Column]:
    """Return the columns that name an arm; the run only where there are several."""
    names = ["codec", "point"] if len(runs) == 1 else ["run", "codec", "point"]
    return [Column(name, is_text=True) for name in names]


def arm_cells(runs: Sequence[MeasuredRun], run: MeasuredRun, arm: MeasuredArm) -> list[str]:
    """Return the cells under `arm_columns`."""
    names = [arm.upload.codec, arm.upload.point]
    return names if len(runs) == 1 else [run.name, *names]


def _per_class_table(arm: MeasuredArm) -> Html:
    setups = setups_of([arm])
    names = [*dict.fromkeys(name for ious in arm.per_class.values() for name in ious), *arm.absent]
    columns = [Column("class", is_text=True), *(Column(setup, MEANINGS[setup]) for setup in setups)]
    rows: list[list[str | Cell]] = [
        [name.replace("_", " "), *(_iou(arm.per_class[setup].get(name)) for setup in setups)] for name in names
    ]
    means = [Cell(percent(arm.miou[setup].mean), arm.miou[setup].mean) for setup in setups]
    return table(columns, [*rows, [element("b", "mean"), *means]])


def _iou(iou: float | None) -> Cell:
    return Cell(NONE) if iou is None else Cell(percent(iou), iou)


def _all_arms(runs: Sequence[MeasuredRun]) -> list[MeasuredArm]:
    return [arm for run in runs for arm in run.arms]
