"""A clip codec's training from its words: the loop over parts of clips, and what it is validated on.

Not here: the folder it works in (`run`), still codecs (`still`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from roadbits.codecs.codec import Clip
from roadbits.codecs.neural.slim_clip import SlimClip
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.slimvc import SlimTemporalPrior
from roadbits.codecs.neural.temporal_model import TemporalModel
from roadbits.codecs.rate_distortion import RdPoint, measure
from roadbits.codecs.training.clips import LatentClips, LatentSampler, clips_of, parts_of
from roadbits.codecs.training.crops import ImageCache
from roadbits.codecs.training.joint_widths import JointWidths, TemporalTraining
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.codecs.training.temporal_freezing import freeze_prior
from roadbits.fleet.progress import Display
from roadbits.fleet.training.clip_config import ClipCodecTraining
from roadbits.fleet.training.folder import LATENTS, own_files
from roadbits.fleet.training.images import cache_name
from roadbits.fleet.training.validation import Validation, middle

_NUM_CALIBRATION_CLIPS = 24


@dataclass(frozen=True)
class ClipValidation(Validation):
    """What a temporal entropy model is validated on.

    Attributes:
        network: in training; it moves on between validations.
        still: name of the codec of its frames.
        calibration: clips to measure ranges on, from the training data.
        held_out: clips to measure rate and quality on.
    """

    noun = "clips"
    network: SlimTemporalPrior
    still: str
    calibration: Sequence[Clip]
    held_out: Sequence[Clip]

    def frozen(self, step: int) -> TemporalModel:
        """Return the exact model of the network as it stands after a step."""
        return freeze_prior(self.network, self.calibration, self.still, step)

    def steps_of(self, path: Path) -> int:
        """Return the step at which a file's model was frozen; see `Validation`."""
        return TemporalModel.load(path).description.steps

    def measure(self, model: TemporalModel, pause: Callable[[], None]) -> list[RdPoint]:
        """Return rate and quality at every point, from the lowest; `pause` is called before each clip."""
        codec = SlimClip("slimvc", SlimStill(self.still, self.network.still), model)

        def clips() -> Iterator[Clip]:
            for clip in self.held_out:
                pause()
                yield clip

        return [measure(codec, point, clips()) for point in codec.points]

    def cost_of_exactness(self, path: Path) -> float | None:
        """Return None: the transforms were exact before, and a prediction has no quality of its own."""
        return None


def clip_training(
    words: ClipCodecTraining,
    opened: Sequence[ImageCache],
    held_out: Sequence[ImageCache],
    folder: Path,
    display: Display,
) -> tuple[RateDistortionTraining, Validation]:
    """Return a clip codec's training and validation.

    Args:
        words: of the training.
        opened: caches of what is trained on.
        held_out: caches of what is measured.
        folder: where latents are kept.
        display: shows how far they are.

    Raises:
        TrainingDataError: if a cache's clips are too short or too small.
    """
    torch.manual_seed(words.seed)
    still = words.codec.still_model()
    network = SlimTemporalPrior(still, words.codec.channels)
    parts = [
        [part for clip in clips_of(cache, source.frames) for part in parts_of(clip, words.crop)]
        for source, cache in zip(words.train_on, opened, strict=True)
    ]
    names = _latents_names(words)
    latents = [_latents(folder / name, still, some, display) for name, some in zip(names, parts, strict=True)]
    samples = LatentSampler(latents, [source.weight for source in words.data], words.seed)
    identity: dict[str, object] = {"codec.channels": words.codec.channels, "codec.still": still.hash.hex()}
    for number, (source, cache) in enumerate(zip(words.data, opened, strict=True)):
        told = {"weight": source.weight, "frames": source.clips.frames, "digest": cache.digest()}
        identity |= {f"data[{number}].{name}": value for name, value in told.items()}
    training = TemporalTraining(network, words.schedule, samples, identity, JointWidths(words.codec.per_step))
    measured = [
        np.stack([middle(frame, words.validation.side) for frame in clip])
        for source, cache in zip(words.validate_on, held_out, strict=True)
        for clip in clips_of(cache, source.frames)
    ]
    share = max(1, _NUM_CALIBRATION_CLIPS // len(parts))
    calibration = [part for some in parts for part in _spaced(some, min(share, len(some)))]
    return training, ClipValidation(network, words.codec.still, calibration, measured)


def _latents_names(words: ClipCodecTraining) -> list[str]:
    """Return the file name of each source's latents."""
    still = words.codec.still_model().hash.hex()
    return [f"latents-{still}-{words.crop}-{Path(cache_name(source)).stem}.npy" for source in words.train_on]


def remove_other_latents(folder: Path, words: ClipCodecTraining) -> None:
    """Remove the latents that this training does not use."""
    names = _latents_names(words)
    for path in own_files(folder, LATENTS):
        if path.name not in names:
            path.unlink()


def _spaced(parts: Sequence[Clip], count: int) -> list[Clip]:
    return [parts[len(parts) * k // count] for k in range(count)]


def _latents(path: Path, still: SlimModel, parts: Sequence[Clip], display: Display) -> LatentClips:
    """Return the latents of some clips, computed if they are not there."""
    if not path.exists():
        with display.bar("latents", len(parts)) as bar:

            def counted() -> Iterator[Clip]:
                for part in parts:
                    yield part
                    bar.advance()

            LatentClips.write(path, still, counted(), len(parts))
    return LatentClips.open(path)
