"""Strips: for a few frames, the original, what each arm made of it, its label and its predictions, from a run's stages.

Test frames where a setup compressed them on board; else frames of the fleet's own drives, which have no predictions.

Pictures are lossless WebP at full resolution, so that an artefact on the page is one of the codec.

Not here: how the page arranges them (`gallery`).
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from roadbits.codecs.metrics import psnr
from roadbits.fleet.archive import Archive
from roadbits.fleet.cameras.classes import ClassSet
from roadbits.fleet.finished_stages import StageFolders, StagesMissing
from roadbits.fleet.plan import shown_positions
from roadbits.fleet.vehicle import Arm

MAX_PICTURE_BYTES = 9_000_000
"""Of all pictures on a page, as base64: with plotly.js, 4.8 MB, the page stays under 15 MB."""
MAX_RESTORED_BYTES = MAX_PICTURE_BYTES // 3
"""Of those, what restored frames may take, where there are some."""
_WEBP_EFFORT = 2
"""Of 0..6: higher ones take several times longer and save a few percent."""


@dataclass(frozen=True)
class ArmStrip:
    """What one arm made of a frame: pictures as data URIs.

    Attributes:
        compressed: the decoded frame; None if this arm has none of it.
        missing: why it has none.
        psnr_db: of the decoded frame.
        bpp: mean of the arm's frames of this kind.
        predictions: by setup.
        restorer: of RO and RC among them; None without one.
    """

    compressed: str | None
    missing: str
    psnr_db: float | None
    bpp: float | None
    predictions: Mapping[str, str]
    restorer: str | None = None


@dataclass(frozen=True)
class Strip:
    """One frame with everything that became of it.

    Attributes:
        title: where the frame comes from.
        original: data URI.
        label: data URI; None if unlabelled.
        ideal: prediction of OO; None without one.
        arms: by codec and operating point.
    """

    title: str
    original: str
    label: str | None
    ideal: str | None
    arms: Mapping[Arm, ArmStrip]

    @property
    def num_bytes(self) -> int:
        """Characters of all pictures."""
        parts = [self.original, self.label, self.ideal]
        for arm in self.arms.values():
            parts += [arm.compressed, *arm.predictions.values()]
        return sum(len(part) for part in parts if part)


@dataclass(frozen=True)
class Gallery:
    """A run's strips.

    Attributes:
        strips: one per shown frame.
        kind: which frames they are, in words.
        seed: of the predictions.
        classes: colours of labels and predictions.
    """

    strips: Sequence[Strip]
    kind: str
    seed: int
    classes: ClassSet


def gallery_of(
    run_folder: Path, bpp: Mapping[Arm, float], restorers: Mapping[Arm, str], max_arms: int, max_bytes: int
) -> Gallery:
    """Return the strips of a run: as many frames and arms as fit.

    Args:
        run_folder: of a finished run.
        bpp: the measured arms and the rate of their uploads.
        restorers: of each restored arm the one whose predictions are shown.
        max_arms: how many arms at most.
        max_bytes: how many bytes of pictures at most; one frame with one arm is given in any case.

    Raises:
        StagesMissing: if the stages cannot be shown.
    """
    try:
        folders = StageFolders(run_folder)
        source = _source(folders, bpp, restorers)
        strips = _affordable(source, bpp, max_arms, max_bytes)
        return Gallery(strips, source.kind, folders.seed, folders.classes)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StagesMissing(f"the stages cannot be read: {error}") from error


def spaced_arms(bpp: Mapping[Arm, float], limit: int) -> list[Arm]:
    """Return at most `limit` arms: every codec's share, from its cheapest to its dearest, evenly spaced."""
    codecs = list(dict.fromkeys(arm.codec for arm in bpp))[:limit]
    if len(bpp) <= limit:
        return list(bpp)
    chosen = []
    for k, codec in enumerate(codecs):
        ladder = sorted((arm for arm in bpp if arm.codec == codec), key=lambda arm: bpp[arm])
        count = min(len(ladder), limit * (k + 1) // len(codecs) - limit * k // len(codecs))
        steps = [position * (len(ladder) - 1) // max(1, count - 1) for position in range(count)]
        chosen += [ladder[step] for step in steps]
    return chosen


def picture(image: NDArray[np.uint8]) -> str:
    """Return an image uint8 (H, W, 3) as a data URI, lossless."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "WEBP", lossless=True, method=_WEBP_EFFORT)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _affordable(
    source: "_TestFrames | _Drives", bpp: Mapping[Arm, float], max_arms: int, max_bytes: int
) -> list[Strip]:
    """Return as many strips as fit; where not even one does, that one with fewer arms."""
    strips: list[Strip] = []
    arms = spaced_arms(bpp, max_arms)
    for strip in source.strips(arms):
        spent = sum(each.num_bytes for each in strips)
        if strips and spent + strip.num_bytes > max_bytes:
            break
        if strip.num_bytes > max_bytes and max_arms > 1:
            fewer = min(max_arms - 1, max(1, len(arms) * max_bytes // strip.num_bytes))
            return _affordable(source, bpp, fewer, max_bytes)
        strips.append(strip)
    return strips


def _source(folders: StageFolders, bpp: Mapping[Arm, float], restorers: Mapping[Arm, str]) -> "_TestFrames | _Drives":
    """Return test frames where anything was measured on them, else the drives."""
    if not bpp:
        raise StagesMissing("no arm sent anything")
    return _TestFrames(folders, restorers) if folders.plan.scenario.downstream else _Drives(folders, bpp)


@dataclass(frozen=True)
class _TestFrames:
    """The shown test frames."""

    folders: StageFolders
    restorers: Mapping[Arm, str]
    kind = "test frames, compressed on board"

    def strips(self, arms: Sequence[Arm]) -> Iterator[Strip]:
        originals = self.folders.originals("test")
        paint = self.folders.classes.paint
        for k, position in enumerate(shown_positions(len(originals))):
            label = originals.labels[position]
            ideal = self._prediction("OO", arms[0], k)
            yield Strip(
                _title(originals, position),
                picture(originals.images[position]),
                picture(paint(label)) if label.size else None,
                ideal,
                {arm: self._arm(arm, k, position, originals.images[position]) for arm in arms},
            )

    def _arm(self, arm: Arm, k: int, position: int, original: NDArray[np.uint8]) -> ArmStrip:
        found = {setup: self._prediction(setup, arm, k) for setup in self.folders.plan.setups if setup != "OO"}
        predictions = {str(setup): uri for setup, uri in found.items() if uri}
        on_board, restorer = self.folders.on_board(arm), self.restorers.get(arm)
        if on_board is None:
            return ArmStrip(None, "not compressed on board in this run", None, None, predictions, restorer)
        image = on_board[0][position]
        return ArmStrip(picture(image), "", psnr(image, original), on_board[1], predictions, restorer)

    def _prediction(self, setup: str, arm: Arm, k: int) -> str | None:
        predictions = self.folders.predictions(setup, arm, self.restorers.get(arm))
        return None if predictions is None else picture(self.folders.classes.paint(predictions[k]))


@dataclass(frozen=True)
class _Drives:
    """Frames that the fleet drove through, for runs that test nothing."""

    folders: StageFolders
    bpp: Mapping[Arm, float]
    kind = "frames of the fleet's drives, as uploaded"

    def strips(self, arms: Sequence[Arm]) -> Iterator[Strip]:
        originals = self.folders.originals("train")
        for position in self._positions(arms, len(originals)):
            label = originals.labels[position]
            yield Strip(
                _title(originals, position),
                picture(originals.images[position]),
                picture(self.folders.classes.paint(label)) if label.size else None,
                None,
                {arm: self._arm(arm, position, originals.images[position]) for arm in arms},
            )

    def _positions(self, arms: Sequence[Arm], frames: int) -> list[int]:
        """Return a few evenly spaced frames that most of the arms delivered."""
        uploads = [uploaded for arm in arms if (uploaded := self.folders.delivered(arm)) is not None]
        counts = np.zeros(frames, np.int64)
        for _, positions in uploads:
            counts[positions] += 1
        if not counts.any():
            return []
        common = np.flatnonzero(counts == counts.max())
        return [int(common[k]) for k in shown_positions(len(common))]

    def _arm(self, arm: Arm, position: int, original: NDArray[np.uint8]) -> ArmStrip:
        uploaded = self.folders.delivered(arm)
        if uploaded is None or position not in uploaded[1]:
            return ArmStrip(None, "this frame was not delivered", None, None, {})
        image = uploaded[0][uploaded[1].index(position)]
        return ArmStrip(picture(image), "", psnr(image, original), self.bpp[arm], {})


def _title(originals: Archive, position: int) -> str:
    note = originals.notes[position]
    return f"{note.camera}, frame {note.index}, {note.domain}"
