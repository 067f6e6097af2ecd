"""The strips on the page: pictures side by side, the arm and the setup chosen by the reader.

Not here: the pictures (`strips`), the script that exchanges them (`page-script.html`).
"""

from collections.abc import Sequence
from typing import Any

from roadbits.fleet.cameras.classes import ClassSet
from roadbits.fleet.finished_stages import StagesMissing
from roadbits.fleet.report.markup import Html, data, element, join, section
from roadbits.fleet.report.measured import MeasuredRun, setups_of
from roadbits.fleet.report.strips import MAX_PICTURE_BYTES, MAX_RESTORED_BYTES, ArmStrip, Gallery, gallery_of
from roadbits.fleet.report.wording import number
from roadbits.fleet.vehicle import Arm

_MAX_ARMS = 8


def strips_section(runs: Sequence[MeasuredRun]) -> Html:
    """Return the strips of every run that has them, and say which has not and why."""
    restored_bytes = MAX_RESTORED_BYTES if any(run.results.restoration for run in runs) else 0
    max_bytes = (MAX_PICTURE_BYTES - restored_bytes) // len(runs)
    parts = [_run_strips(k, run, len(runs), max_bytes) for k, run in enumerate(runs)]
    return section("strips", "Frames at full resolution", *parts)


def _run_strips(position: int, run: MeasuredRun, num_runs: int, max_bytes: int) -> Html:
    heading = [element("h3", run.name)] if num_runs > 1 else []
    measured = {Arm(arm.upload.codec, arm.upload.point): arm for arm in run.arms if arm.upload.bpp > 0}
    bpp = {arm: each.upload.bpp for arm, each in measured.items()}
    restorers = {arm: each.restorer for arm, each in measured.items() if each.restorer}
    try:
        shown = gallery_of(run.folder, bpp, restorers, max(2, _MAX_ARMS // num_runs), max_bytes)
    except StagesMissing as missing:
        return join([*heading, element("p", f"No frames to show: {missing}.", class_="note")])
    if not shown.strips:
        return join([*heading, element("p", "No frames to show: nothing was measured or delivered.", class_="note")])
    setups = [setup for setup in setups_of(run.arms) if _has_prediction(shown, setup)]
    return join([*heading, _viewer(f"strips-{position}", run, shown, setups)])


def _has_prediction(shown: Gallery, setup: str) -> bool:
    return any(
        (strip.ideal if setup == "OO" else any(setup in arm.predictions for arm in strip.arms.values()))
        for strip in shown.strips
    )


def _viewer(identity: str, run: MeasuredRun, shown: Gallery, setups: Sequence[str]) -> Html:
    """Return the empty frame of the pictures with their data; the script fills it."""
    arms = list(shown.strips[0].arms)
    chooses_arm = _select("Codec and operating point", "arm", [f"{arm.codec} {arm.point}" for arm in arms])
    chooses_setup = [_select("Prediction of setup", "setup", setups)] if setups else []
    left_out = len(run.arms) - len(arms)
    note = f"{shown.kind.capitalize()}; lossless pictures. Click one to see it at full size, arrow keys step through."
    note += f" Predictions of seed {shown.seed}." if setups else ""
    note += f" {left_out} of {len(run.arms)} arms are left out to keep the page small." if left_out else ""
    content = [
        element("div", join([chooses_arm, *chooses_setup]), class_="controls"),
        element("div", "", class_="strips"),
        _class_legend(shown.classes) if setups or any(strip.label for strip in shown.strips) else Html(""),
        element("p", note, class_="note"),
        data(f"{identity}-data", _values(shown, arms, setups)),
    ]
    return element("div", join(content), class_="viewer", id=identity)


def _select(label: str, name: str, options: Sequence[str]) -> Html:
    items = join([element("option", text, value=str(k)) for k, text in enumerate(options)], "")
    return element("label", join([label, element("select", items, name=name)], " "), class_="choice")


def _values(shown: Gallery, arms: Sequence[Arm], setups: Sequence[str]) -> dict[str, Any]:
    """Return what the script needs: pictures by position of frame, arm and setup."""
    return {
        "setups": list(setups),
        "strips": [
            {
                "title": strip.title,
                "original": strip.original,
                "label": strip.label,
                "ideal": strip.ideal,
                "arms": [_arm_values(arm, strip.arms[arm], setups, strip.ideal is not None) for arm in arms],
            }
            for strip in shown.strips
        ],
    }


def _arm_values(arm: Arm, strip: ArmStrip, setups: Sequence[str], has_ideal: bool) -> dict[str, Any]:
    caption = f"{arm.codec} {arm.point}"
    if strip.compressed is None:
        caption += f": {strip.missing}"
    else:
        caption += f" · {number(strip.psnr_db, 2)} dB · mean {number(strip.bpp, 3)} bpp"
    shown = {*strip.predictions, *(["OO"] if has_ideal else [])}
    captions = {setup: _caption(setup, setup in shown, strip.restorer) for setup in setups}
    predictions = dict(strip.predictions)
    return {"compressed": strip.compressed, "caption": caption, "predictions": predictions, "captions": captions}


def _caption(setup: str, is_shown: bool, restorer: str | None) -> str:
    told = f"{'' if is_shown else 'no '}prediction of {setup}"
    return f"{told} by {restorer}" if is_shown and setup.startswith("R") else told


def _class_legend(classes: ClassSet) -> Html:
    entries = [
        join([element("i", style=f"background:rgb({r},{g},{b})"), name.replace("_", " ")], " ")
        for name, (r, g, b) in zip(classes.names, classes.colours, strict=True)
    ]
    entries.append(join([element("i", style="background:#000"), "not counted"], " "))
    return element("p", join([element("span", entry) for entry in entries]), class_="classes")
