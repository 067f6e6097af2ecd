"""A still codec's training from its words: the loop over crops, and what it is validated on.

Not here: the folder it works in (`run`), clip codecs (`clip`).
"""

from collections.abc import Sequence

from roadbits.codecs.training.crops import CropSampler, ImageCache
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.fleet.training.network import build_network, training_of
from roadbits.fleet.training.still_config import StillCodecTraining
from roadbits.fleet.training.validation import StillValidation, Validation

_NUM_CALIBRATION_IMAGES = 160
"""What these do not reach is cut off in others: with 24, freezing a MAE or cAE cost more than twice as much."""


def still_training(
    words: StillCodecTraining, opened: Sequence[ImageCache], held_out: Sequence[ImageCache]
) -> tuple[RateDistortionTraining, Validation]:
    """Return a still codec's training and validation, given the caches of what is trained on and held out.

    Raises:
        TrainingDataError: if a cache has no image that is large enough.
    """
    weights, decimated = [source.weight for source in words.data], [source.decimated for source in words.data]
    crops = CropSampler(opened, weights, words.crop, words.seed, words.busiest_of, decimated)
    network = build_network(words)
    training = training_of(network, words, crops, [cache.digest() for cache in opened])
    calibration = crops.calibration_images(_NUM_CALIBRATION_IMAGES)
    return training, StillValidation.of_caches(network, calibration, held_out, words.validation.side)
