"""What restoration gives back: every treatment of the uploads on one scale, as a chart, a table and pictures.

Not here: how the intervals come about (`roadbits.downstream.bootstrap`), codecs and restorers at equal bytes
(`pipelines`).
"""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from roadbits.fleet.finished_stages import StageFolders, StagesMissing
from roadbits.fleet.report.charts import chart, plain_figure
from roadbits.fleet.report.markup import Cell, Column, Html, element, join, section, table
from roadbits.fleet.report.measured import MeasuredArm, MeasuredRun
from roadbits.fleet.report.palette import COLOURS
from roadbits.fleet.report.pipelines import pipeline_tables
from roadbits.fleet.report.segmentation import arm_cells, arm_columns
from roadbits.fleet.report.strips import MAX_RESTORED_BYTES, picture, spaced_arms
from roadbits.fleet.report.wording import NONE, number, percent, points
from roadbits.fleet.results import RestorationRow
from roadbits.fleet.vehicle import Arm

MEANINGS = {
    "none": "trained on the uploads as they are: CO",
    "mse": "restored for the least squared error",
    "perceptual": "restored for what ImageNet's encoder sees of the original",
    "gan": "the same, and so that critics take it for an original",
    "task": "restored so that a segmenter computes what it does on the original",
    "unsharp": "an unsharp mask, tuned on the reference frames",
    "dcngan": "clips, restored by DCNGAN: each frame with its neighbours",
    "augmentation": "no restorer: training frames blurred, sharpened and compressed at random",
    "references": "no restorer: trained on the labelled reference frames too",
}
_REMEDIES = ("augmentation", "references")
_SHOWN, _MAX_ARMS, _CUT = 2, 8, (192, 256)
_LEAST_TOLD = 0.5
"""Percentage points that are written into a picture's cell."""


def restoration_section(runs: Sequence[MeasuredRun]) -> Html | None:
    """Return the section; None if nothing was restored."""
    runs = [run for run in runs if run.results.restoration]
    if not runs:
        return None
    figures = [
        chart(f"restoration-{k}", _dots(run, rows), f"{_named(runs, run)}{arm.name}, {number(arm.upload.bpp, 3)} bpp")
        for k, (run, arm, rows) in enumerate(_arms(runs))
    ]
    note = (
        "mIoU on original frames, of segmenters trained on uploads after each treatment; bars are 90 % intervals: test "
        "frames drawn anew in blocks, and Student's t over the seeds, where there are several. Dashed: OO. The gap is "
        "OO − CO; a gain or a share of it has an interval of its own, since all are measured on the same frames with "
        "the same seeds. The best of many treatments is the best by luck, too: its interval knows nothing of that. "
        "PSNR, MS-SSIM and feature distance are of the training frames: the best of each in bold need not be the best "
        "for the segmenter. Feature distance is how differently ImageNet's EfficientNet-Lite0 sees frame and original, "
        "which is not LPIPS."
    )
    grid = element("div", join(figures), class_="panels")
    return section(
        "restoration",
        "What restoration gives back",
        grid,
        table(_columns(runs), [row for arm in _arms(runs) for row in _rows(runs, *arm)]),
        element("p", note, class_="note"),
        *_confusions(runs),
        *pipeline_tables(runs),
        *(_pictures(run, MAX_RESTORED_BYTES // len(runs)) for run in runs),
    )


def _arms(runs: Sequence[MeasuredRun]) -> Iterator[tuple[MeasuredRun, MeasuredArm, list[RestorationRow]]]:
    """Yield each restored arm with its rows."""
    for run in runs:
        for arm in run.arms:
            name = (arm.upload.codec, arm.upload.point)
            if rows := [row for row in run.results.restoration if (row.codec, row.point) == name]:
                yield run, arm, rows


def _named(runs: Sequence[MeasuredRun], run: MeasuredRun) -> str:
    return f"{run.name}: " if len(runs) > 1 else ""


def _dots(run: MeasuredRun, rows: Sequence[RestorationRow]) -> Any:
    """Return a chart of one arm: a line for each treatment, the best on top."""
    figure = plain_figure("mIoU on original frames, %", "")
    ranked = sorted(rows, key=lambda row: row.miou)
    figure.add_trace(
        go.Scatter(
            x=[100 * row.miou for row in ranked],
            y=[row.treatment for row in ranked],
            mode="markers",
            marker={
                "size": 11,
                "color": [_colour(row.treatment) for row in ranked],
                "symbol": ["square" if row.treatment in _REMEDIES else "circle" for row in ranked],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * (row.miou_high - row.miou) for row in ranked],
                "arrayminus": [100 * (row.miou - row.miou_low) for row in ranked],
                "thickness": 1.4,
            },
            customdata=[_told(row) for row in ranked],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    if run.ideal is not None:
        line = {"color": "#8c8c8c", "dash": "dash", "width": 1.5}
        figure.add_vline(x=100 * run.ideal.mean, line=line, annotation_text=f"OO {percent(run.ideal.mean)}")
    figure.update_layout(height=110 + 34 * len(ranked))
    return figure


def _colour(treatment: str) -> str:
    return COLOURS[-1] if treatment == "none" else COLOURS[1 if treatment in _REMEDIES else 0]


def _told(row: RestorationRow) -> str:
    seeds = [f"seed {seed}: {percent(miou)}" for seed, miou in row.miou_by_seed.items()]
    lines = [f"{percent(row.miou)} % mIoU", MEANINGS.get(row.treatment, ""), *seeds]
    return "<br>".join([f"<b>{html.escape(row.treatment)}</b>", *(html.escape(line) for line in lines)])


def _columns(runs: Sequence[MeasuredRun]) -> list[Column]:
    return [
        *arm_columns(runs),
        Column("treatment", is_text=True),
        Column("mIoU, %", "on original frames, 90 % interval"),
        Column("gain, points", "over the uploads as they are, 90 % interval"),
        Column("gap closed, %", "of OO − CO, 90 % interval"),
        Column("PSNR, dB", "of the training frames"),
        Column("MS-SSIM"),
        Column("feature distance", "the less, the nearer to the original in the eyes of ImageNet's EfficientNet-Lite0"),
        Column("references", "frames given to learn from, those included that are held out to stop by"),
        Column("best step", "whose weights restore, of those taken until held-out references no longer got better"),
    ]


def _rows(
    runs: Sequence[MeasuredRun], run: MeasuredRun, arm: MeasuredArm, rows: Sequence[RestorationRow]
) -> Iterator[list[str | Cell]]:
    best_psnr, best_ssim = (_extreme(rows, name, max) for name in ("psnr_db", "ms_ssim"))
    nearest, best = _extreme(rows, "feature_distance", min), max(row.miou for row in rows)
    for row in rows:
        yield [
            *arm_cells(runs, run, arm),
            row.treatment,
            Cell(_between(row.miou, row.miou_low, row.miou_high, percent), is_best=row.miou == best),
            NONE if row.treatment == "none" else _between(row.gain, row.gain_low, row.gain_high, points),
            NONE if row.treatment == "none" else _between(row.gap_closed, row.gap_low, row.gap_high, percent),
            Cell(number(row.psnr_db, 2), is_best=row.psnr_db is not None and row.psnr_db == best_psnr),
            Cell(number(row.ms_ssim, 4), is_best=row.ms_ssim is not None and row.ms_ssim == best_ssim),
            Cell(
                number(row.feature_distance, 3),
                is_best=row.feature_distance is not None and row.feature_distance == nearest,
            ),
            str(row.reference_frames) if row.reference_frames else NONE,
            NONE if row.steps is None else f"{row.best_step} of {row.steps}",
        ]


def _extreme(rows: Sequence[RestorationRow], name: str, of: Callable[..., float]) -> float | None:
    values = [value for row in rows if (value := getattr(row, name)) is not None]
    return of(values) if values else None


def _between(value: float | None, low: float | None, high: float | None, told: Callable[[float | None], str]) -> str:
    return NONE if value is None else f"{told(value)} ({told(low)} … {told(high)})"


def _confusions(runs: Sequence[MeasuredRun]) -> list[Html]:
    """Return which classes the best restorer of each arm saves, and which it takes for others."""
    figures = []
    for k, (run, arm, rows) in enumerate(_arms(runs)):
        plain = next(row for row in rows if row.treatment == "none")
        restored = [row for row in rows if row.treatment != "none" and row.treatment not in _REMEDIES]
        if restored:
            best = max(restored, key=lambda row: row.miou)
            title = f"{_named(runs, run)}{arm.name}, {best.treatment} less none"
            figures.append(chart(f"confusion-{k}", _confusion(best, plain), title))
    if not figures:
        return []
    note = (
        "Of the pixels of each class in original test frames, how many percentage points more (blue) or fewer (orange) "
        "are taken for each class after restoration, over all seeds. Blue on the diagonal: what restoration saves; "
        "blue beside it: what it invents."
    )
    grid = element("div", join(figures), class_="panels")
    return [element("h3", "What is taken for what"), grid, element("p", note, class_="note")]


def _confusion(restored: RestorationRow, plain: RestorationRow) -> Any:
    """Return the difference between two rows' confusions as a picture."""
    names = list(plain.taken_for)
    columns = list(plain.taken_for[names[0]])
    change = [
        [100 * (restored.taken_for[name][other] - plain.taken_for[name][other]) for other in columns] for name in names
    ]
    most = max(1.0, *(abs(value) for row in change for value in row))
    figure = plain_figure("taken for", "class")
    figure.add_heatmap(
        z=change,
        x=[html.escape(name) for name in columns],
        y=[html.escape(name) for name in names],
        zmin=-most,
        zmax=most,
        colorscale=[[0, COLOURS[1]], [0.5, "rgba(255,255,255,0)"], [1, COLOURS[0]]],
        text=[[f"{value:+.0f}" if abs(value) >= _LEAST_TOLD else "" for value in row] for row in change],
        texttemplate="%{text}",
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": "points"}, "thickness": 12},
        hovertemplate="%{y} taken for %{x}: %{z:+.1f} points<extra></extra>",
    )
    figure.update_layout(height=120 + 26 * len(names))
    figure.update_yaxes(autorange="reversed", title=None)
    return figure


def _pictures(run: MeasuredRun, max_bytes: int) -> Html:
    """Return parts of a few uploads: as decoded, as every restorer made them, and their originals."""
    bpp = {Arm(arm.upload.codec, arm.upload.point): arm.upload.bpp for arm in run.arms}
    try:
        folders = StageFolders(run.folder)
        restored = {arm: bpp[arm] for arm in folders.restored_arms() if bpp[arm] > 0}
        shown = _affordable(folders, restored, max_bytes)
    except (StagesMissing, OSError, ValueError, LookupError, TypeError) as error:
        return element("p", f"No restored frames to show: {error}.", class_="note")
    left_out = len(restored) - len(shown)
    told = f"{left_out} of {len(restored)} restored arms are left out of these pictures to keep the page small."
    note = element("p", told, class_="note") if left_out else Html("")
    strips = [each for some in shown.values() for each in some if each]
    return join([element("div", join(strips), class_="restored"), note])


def _affordable(folders: StageFolders, bpp: Mapping[Arm, float], max_bytes: int) -> dict[Arm, list[Html]]:
    """Return the strips that fit: of fewer frames, then of fewer arms; one of one arm in any case."""
    strips = {arm: [_strip(folders, arm, k) for k in range(_SHOWN)] for arm in spaced_arms(bpp, _MAX_ARMS)}
    shown = strips
    for num_arms in range(len(strips), 0, -1):
        if sum(len(each) for some in shown.values() for each in some) <= max_bytes:
            break
        chosen = spaced_arms({arm: bpp[arm] for arm in strips}, num_arms)
        shown = {arm: strips[arm][:1] for arm in chosen}
    return shown


def _strip(folders: StageFolders, arm: Arm, position: int) -> Html:
    uploaded, originals = folders.delivered(arm), folders.originals("train")
    if uploaded is None or not uploaded[1]:
        return Html("")
    chosen = len(uploaded[1]) * (2 * position + 1) // (2 * _SHOWN)
    shown: dict[str, NDArray[np.uint8]] = {f"{arm.key}, decoded": uploaded[0][chosen]}
    for kind in folders.plan.restorers_of(arm):
        if (restored := folders.restored(arm, kind)) is not None:
            shown[kind] = restored[chosen]
    shown["original"] = originals.images[uploaded[1][chosen]]
    figures = [
        element(
            "figure",
            join([Html(f'<img src="{picture(_cut(image))}" alt="{html.escape(name)}">'), element("figcaption", name)]),
        )
        for name, image in shown.items()
    ]
    return element("div", join(figures), class_="strip")


def _cut(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of an image."""
    height, width = (min(most, side) for most, side in zip(_CUT, image.shape[:2], strict=True))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])
