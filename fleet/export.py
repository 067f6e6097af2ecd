"""Writing a setup's frames to disk as a data set that anyone's trainer reads: CamVid's layout, or Cityscapes'.

The training frames of the setup go to split `train`, the test frames to `val`; labels are those of the originals. The
manifest tells where each file comes from.

Not here: reading such data sets (`cameras.layouts`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.image import write_image
from roadbits.downstream.setups import Frames, Setup
from roadbits.fleet.archive import Array, FrameNote
from roadbits.fleet.cameras.classes import CAMVID11, CAMVID_IDS, CITYSCAPES_IDS, IGNORED, ClassSet
from roadbits.fleet.finished_stages import StageFolders
from roadbits.fleet.restoration_words import RestorerKind
from roadbits.fleet.results import Results
from roadbits.fleet.vehicle import Arm

T = TypeVar("T")


class ExportError(Exception):
    """A setup that cannot be exported; the message says what to choose."""


@dataclass(frozen=True)
class Choice:
    """What to export.

    Attributes:
        setup: training x test frames.
        arm: codec and operating point; may be left out where the run has one.
        restorer: of the training frames; may be left out where the run has one.
    """

    setup: Setup
    arm: Arm | None = None
    restorer: str | None = None


@dataclass(frozen=True, eq=False)
class _Frame:
    image: Array
    label: Array
    note: FrameNote


def export(run_folder: Path, results: Results, choice: Choice, out: Path, show: Callable[[int, int], None]) -> int:
    """Write a setup's frames and labels, and `manifest.json`, into a new folder; return the number of frames.

    Args:
        run_folder: of a finished run.
        results: of that run.
        choice: what to export.
        out: the new folder.
        show: told how many of how many frames are written.

    Raises:
        ExportError: if the folder is not new, or the run has no such frames or more than one choice of them.
        StagesMissing: if the run's stages are gone.
        ImageFileError: if a file cannot be written.
    """
    folders = StageFolders(run_folder)
    arm = _arm(folders, choice) if choice.setup is not Setup.OO else None
    restorer = _restorer(folders, choice, arm)
    if out.exists() and any(out.iterdir()):
        raise ExportError(f"{out} is not empty: choose a new folder")
    trained_on = None if choice.setup.training is Frames.ORIGINAL else arm
    parts = {"train": _train(folders, trained_on, restorer), "val": _test(folders, arm, choice.setup)}
    total, entries = sum(map(len, parts.values())), []
    for split, frames in parts.items():
        for frame in frames:
            entries.append({"split": split, **_write(out, split, frame, folders.classes), **vars(frame.note)})
            show(len(entries), total)
    manifest = {
        "scenario": results.scenario,
        "digest": results.digest,
        "setup": str(choice.setup),
        "codec": arm.codec if arm else None,
        "point": arm.point if arm else None,
        "restorer": restorer,
        "classes": folders.classes.names,
        "frames": entries,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return total


def _arm(folders: StageFolders, choice: Choice) -> Arm:
    is_restored = choice.setup.training is Frames.RESTORED
    arms = folders.restored_arms() if is_restored else list(folders.plan.arms)
    if is_restored and not arms:
        raise ExportError(f"{choice.setup} trains on restored frames, and the run restored none")
    return _only(f"codec and point of {choice.setup}", arms, choice.arm, lambda arm: arm.key)


def _restorer(folders: StageFolders, choice: Choice, arm: Arm | None) -> RestorerKind | None:
    if arm is None or choice.setup.training is not Frames.RESTORED:
        if choice.restorer is not None:
            raise ExportError(f"restorer {choice.restorer}: {choice.setup} trains on no restored frames; RO and RC do")
        return None
    return _only("restorer", folders.plan.restorers_of(arm), choice.restorer, str)  # type: ignore[arg-type]


def _only(what: str, there: Sequence[T], wanted: T | None, named: Callable[[T], str]) -> T:
    """Return what is wanted, or all there is.

    Raises:
        ExportError: if that is not there, or there are several to choose from.
    """
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None or wanted not in there:
        got = "nothing was chosen" if wanted is None else f"got {named(wanted)}"
        raise ExportError(f"{what}: {got}, the run has {', '.join(map(named, there)) or 'none'}")
    return wanted


def _train(folders: StageFolders, arm: Arm | None, restorer: RestorerKind | None) -> list[_Frame]:
    originals = folders.originals("train")
    if arm is None:
        return list(map(_Frame, originals.images, originals.labels, originals.notes))
    delivered = folders.delivered(arm)
    images = folders.restored(arm, restorer) if restorer else delivered and delivered[0]
    if delivered is None or images is None:
        raise ExportError(f"the stages with the frames of {arm.key} are gone")
    places = delivered[1]
    return [_Frame(image, originals.labels[k], originals.notes[k]) for image, k in zip(images, places, strict=True)]


def _test(folders: StageFolders, arm: Arm | None, setup: Setup) -> list[_Frame]:
    originals = folders.originals("test")
    images: Sequence[Array] = originals.images
    if arm is not None and setup.test is Frames.COMPRESSED:
        on_board = folders.on_board(arm)
        if on_board is None:
            raise ExportError(f"the run compressed no test frame with {arm.key}: it measured no setup that needs them")
        images = on_board[0]
    return list(map(_Frame, images, originals.labels, originals.notes))


def _write(out: Path, split: str, frame: _Frame, classes: ClassSet) -> dict[str, str | None]:
    """Write a frame and its label, and return their paths below the folder."""
    camera = frame.note.camera.replace("_", "-").replace("/", "-")
    name = f"{camera}_{frame.note.vehicle:06d}_{frame.note.index:06d}"
    if classes == CAMVID11:
        image, label = Path(split) / f"{name}.png", Path(f"{split}annot") / f"{name}.png"
    else:
        image = Path("leftImg8bit") / split / camera / f"{name}_leftImg8bit.png"
        label = Path("gtFine") / split / camera / f"{name}_gtFine_labelIds.png"
    _save(out / image, frame.image)
    if not frame.label.size:
        return {"image": image.as_posix(), "label": None}
    _save(out / label, _stored_ids(frame.label, classes))
    return {"image": image.as_posix(), "label": label.as_posix()}


def _save(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)


def _stored_ids(label: Array, classes: ClassSet) -> NDArray[np.uint8]:
    """Return the ids that the layout stores for class ids uint8 (H, W)."""
    ids = CAMVID_IDS if classes == CAMVID11 else CITYSCAPES_IDS
    table = np.full(256, next(stored for stored, known in ids.items() if known == IGNORED), np.uint8)
    for stored, known in ids.items():
        if known != IGNORED:
            table[known] = stored
    return table[label]
