"""Pipelines, a codec at a point with or without a restorer: which is worth its bytes, and how many others would take.

Not here: one arm's restorers side by side (`restoration`), codecs without restoration (`rates`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from roadbits.codecs.metrics import bd_rate, quality_at
from roadbits.fleet.report.markup import Cell, Column, Html, element, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun, Spread
from roadbits.fleet.report.rates import miou_curve
from roadbits.fleet.report.segmentation import arm_cells, arm_columns
from roadbits.fleet.report.wording import NONE, number, percent, signed, spread

_REFERENCES = ("jpeg", "avif")
"""Whose uploads, trained on as they are, are what one would do without all this."""


def pipeline_tables(runs: Sequence[MeasuredRun]) -> list[Html]:
    """Return the tables of pipelines at equal bytes and at equal mIoU; none if nothing was restored at fixed points."""
    if not any(pipeline.restorer for run in runs for pipeline in _pipelines(run)):
        return []
    return [*_worth_their_bytes(runs), *_at_equal_miou(runs)]


@dataclass(frozen=True)
class _Pipeline:
    """A codec at a fixed point, and what its uploads become before a segmenter trains on them.

    Attributes:
        arm: codec and point.
        restorer: None where the uploads stay as they are.
        miou: on original frames.
    """

    arm: MeasuredArm
    restorer: str | None
    miou: Spread


def _pipelines(run: MeasuredRun) -> list[_Pipeline]:
    """Return a run's pipelines by rising rate, the better of equal rates first."""
    found = [
        _Pipeline(arm, arm.restorer if setup == "RO" else None, arm.miou[setup])
        for arm in run.arms
        for setup in ("CO", "RO")
        if arm.is_fixed and arm.upload.bpp > 0 and setup in arm.miou
    ]
    return sorted(found, key=lambda each: (each.arm.upload.bpp, -each.miou.mean))


def _best(run: MeasuredRun) -> list[_Pipeline]:
    """Return the pipelines that no other beats at as many bytes or fewer, by rising rate."""
    best: list[_Pipeline] = []
    for each in _pipelines(run):
        if not best or each.miou.mean > best[-1].miou.mean:
            best.append(each)
    return best


def _worth_their_bytes(runs: Sequence[MeasuredRun]) -> list[Html]:
    # Where one arm sends fewer frames than another, bits per pixel do not compare what they send.
    alike = [run for run in runs if run.sends_alike]
    if not alike:
        return []
    rows: list[list[str | Cell]] = []
    references = _references(alike)
    for run in alike:
        curves = [miou_curve(run, name, "CO") for name in references]
        for each in _best(run):
            bpp = each.arm.upload.bpp
            plain = [quality_at(curve, bpp) if len(curve.rates) > 1 else None for curve in curves]
            rows.append(
                [
                    *arm_cells(runs, run, each.arm),
                    each.restorer or NONE,
                    number(bpp, 3),
                    spread(each.miou),
                    *(percent(miou) for miou in plain),
                ]
            )
    columns = [
        *arm_columns(runs),
        Column("restorer", is_text=True),
        Column("bpp", "bits per pixel that travelled"),
        Column("mIoU, %", "on original frames, ± half the range over seeds"),
        *(Column(f"{name} CO, %", f"of {name} without restoration at as many bytes") for name in references),
    ]
    note = (
        "Pipelines that no other beats with as many bytes or fewer; beside each, what a codec without restoration has "
        f"at that rate, between its points on a curve over the log of the rate ({NONE} outside of them). Of several "
        "restorers the best on these frames is taken."
    )
    return [element("h3", "The best pipelines at equal bytes"), table(columns, rows), element("p", note, class_="note")]


def _at_equal_miou(runs: Sequence[MeasuredRun]) -> list[Html]:
    """Return what each pipeline needs of others' bytes without restoration: of JPEG's, AVIF's and its own codec's."""
    known = [
        (run, line, setup, curve)
        for run in runs
        for line in dict.fromkeys(arm.line for arm in run.arms)
        for setup in ("CO", "RO")
        if len((curve := miou_curve(run, line, setup)).rates) > 1
    ]
    if not any(setup == "RO" for _, _, setup, _ in known):
        return []
    references = _references(runs)
    rows: list[list[str | Cell]] = []
    for run, line, setup, curve in known:
        against = [miou_curve(run, name, "CO") for name in (*references, line)]
        percents = [bd_rate(curve, other).percent if len(other.rates) > 1 else None for other in against]
        restored = {arm.restorer for arm in run.arms if arm.line == line and arm.restorer} if setup == "RO" else set()
        names = [run.name] if len(runs) > 1 else []
        rows.append([*names, line, ", ".join(sorted(restored)) or NONE, *(signed(each, 1) for each in percents)])
    columns = [
        *(Column(name, is_text=True) for name in (["run", "codec"] if len(runs) > 1 else ["codec"])),
        Column("restorer", "of each point the best one", is_text=True),
        *(Column(f"against {name} CO, %") for name in (*references, "its own")),
    ]
    note = "Bits more (+) or fewer (−) at equal mIoU on original frames, mean over the mIoU that both reach."
    return [element("h3", "Pipelines at equal mIoU"), table(columns, rows), element("p", note, class_="note")]


def _references(runs: Sequence[MeasuredRun]) -> list[str]:
    return [name for name in _REFERENCES if any(len(miou_curve(run, name, "CO").rates) > 1 for run in runs)]
