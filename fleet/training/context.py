"""A context's training from its words: the loop over crops, and what it is validated on.

Not here: the folder it works in (`run`), codecs whose transforms are trained (`still`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from roadbits.codecs.codec import Image
from roadbits.codecs.neural.context import Contexts
from roadbits.codecs.neural.model_file import FrozenModel, ModelFileError
from roadbits.codecs.neural.slim_model import SlimModel, load_model
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.rate_distortion import RdPoint
from roadbits.codecs.training.context_freezing import contexts_for, freeze_contexts
from roadbits.codecs.training.crops import CropSampler, ImageCache
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.fleet.training.context_config import ContextTraining
from roadbits.fleet.training.validation import Validation, measure_still, middles

_NUM_CALIBRATION_IMAGES = 48


@dataclass(frozen=True)
class ContextValidation(Validation):
    """What contexts are validated on.

    Attributes:
        network: in training; it moves on between validations.
        calibration: images to measure ranges on, from the training data.
        held_out: images to measure rate and quality on.
    """

    noun = "images"

    network: Contexts
    calibration: Sequence[Image]
    held_out: Sequence[Image]

    def frozen(self, step: int) -> FrozenModel | SlimModel:
        """Return the codec with its contexts as they stand after a step."""
        return freeze_contexts(self.network, self.calibration, step)

    def steps_of(self, path: Path) -> int:
        """Return the step at which a file's context was frozen; see `Validation`."""
        model = load_model(path)
        context = (model.models[-1] if isinstance(model, SlimModel) else model).description.context
        if context is None:
            raise ModelFileError(f"{path} holds no context")
        return context.steps

    def measure(self, model: FrozenModel | SlimModel, pause: Callable[[], None]) -> list[RdPoint]:
        """Return rate and quality at every point, from the lowest; `pause` is called before each image."""
        codec = SlimStill("slim", model) if isinstance(model, SlimModel) else NeuralStill("still", model)
        return measure_still(codec, self.held_out, pause)

    def cost_of_exactness(self, path: Path) -> float | None:
        """Return None: the transforms were exact before, and a context has no quality of its own."""
        return None


def context_training(
    words: ContextTraining, opened: Sequence[ImageCache], held_out: Sequence[ImageCache]
) -> tuple[RateDistortionTraining, Validation]:
    """Return a context's training and validation, given the caches of what is trained on and held out.

    Raises:
        TrainingDataError: if a cache has no image that is large enough.
    """
    torch.manual_seed(words.seed)
    weights, decimated = [source.weight for source in words.data], [source.decimated for source in words.data]
    crops = CropSampler(opened, weights, words.crop, words.seed, words.busiest_of, decimated)
    calibration = crops.calibration_images(_NUM_CALIBRATION_IMAGES)
    codec, channels = words.codec.still_codec(), words.codec.each_channels()
    network = contexts_for(codec, calibration, words.codec.groups, channels)
    identity: dict[str, object] = {
        "codec.groups": words.codec.groups,
        "codec.channels": channels,
        "codec.still": [context.codec.model_hash.hex() for context in network.widths_contexts],
        "busiest_of": words.busiest_of,
    }
    for number, (source, cache) in enumerate(zip(words.data, opened, strict=True)):
        told = {"weight": source.weight, "decimated": source.decimated, "digest": cache.digest()}
        identity |= {f"data[{number}].{name}": value for name, value in told.items()}
    training = RateDistortionTraining(network, words.schedule, crops, identity)
    return training, ContextValidation(network, calibration, middles(held_out, words.validation.side))
