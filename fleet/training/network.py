"""From a training's words to what is trained: the network, and the loop that moves it.

Not here: the words (`still_config`), the folder a training works in (`run`).
"""

from collections.abc import Callable, Sequence
from typing import assert_never

import torch

from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.conditional import Conditional
from roadbits.codecs.neural.gain import Gained
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.mae import Modulated
from roadbits.codecs.neural.modulation import Method, RateMethod
from roadbits.codecs.neural.scaling import Scaled, train_scales_only
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.slimhyperprior import SlimHyperprior
from roadbits.codecs.training.crops import CropSampler, TrainingDataError
from roadbits.codecs.training.dct_start import start_as_dct
from roadbits.codecs.training.joint_widths import JointWidths, JointWidthsTraining
from roadbits.codecs.training.mask_decay import shrink_encoder
from roadbits.codecs.training.rate_distortion import RateDistortionTraining
from roadbits.codecs.training.thawing import thaw, thaw_widths
from roadbits.fleet.training.still_config import (
    CaeCodec,
    HyperpriorCodec,
    SlimCaeCodec,
    SlimHyperpriorCodec,
    StillCodecTraining,
)

PlainNetwork = CAE | Hyperprior
SlimNetwork = SlimCAE | SlimHyperprior


def build_network(words: StillCodecTraining) -> PlainNetwork | SlimNetwork:
    """Return the network with the initial weights that the seed, or the codec to start from, gives.

    Raises:
        TrainingDataError: if that codec's networks are others.
    """
    torch.manual_seed(words.seed)
    codec, prepare = words.codec, _preparation(words)
    match codec:
        case CaeCodec():
            cae = CAE(codec.channels, rate_method(codec.method, words.lambdas), codec.latent_channels)
            return _begun(cae, words, prepare)
        case HyperpriorCodec():
            method = rate_method(codec.method, words.lambdas)
            hyperprior = Hyperprior(codec.channels, codec.latent_channels, method, codec.layers, codec.means)
            return _begun(hyperprior, words, prepare)
        case SlimCaeCodec():
            return SlimCAE(codec.widths, words.lambdas_by_width, codec.latent_channels, codec.gdn, prepare)
        case SlimHyperpriorCodec():
            lambdas = words.lambdas_by_width
            shape = codec.layers, codec.means, codec.gdn
            return SlimHyperprior(codec.widths, codec.latent_channels, lambdas, *shape, prepare)
        case _:
            assert_never(codec)


def _preparation(words: StillCodecTraining) -> Callable[[Sequence[PlainNetwork]], None] | None:
    """Return what gives networks, of all widths, their first weights, if they are not random."""
    if words.start == "dct":
        return _start_as_dct
    frozen = words.start_model()
    if frozen is None:
        return None

    def thawed(networks: Sequence[PlainNetwork]) -> None:
        try:
            if isinstance(frozen, SlimModel):
                thaw_widths(networks, frozen)
            else:
                (network,) = networks
                thaw(network, frozen)
        except ValueError as error:
            raise TrainingDataError(f"start: cannot begin from {words.start}: {error}") from error

    return thawed


def _start_as_dct(networks: Sequence[PlainNetwork]) -> None:
    for network in networks:
        start_as_dct(network)


def _begun(
    network: PlainNetwork, words: StillCodecTraining, prepare: Callable[[Sequence[PlainNetwork]], None] | None
) -> PlainNetwork:
    """Return a network with its first weights, of which only that may move which is to be trained."""
    if prepare:
        prepare([network])
    if network.method.name == "scaling":
        train_scales_only(network)
    if words.mask_decay:
        shrink_encoder(network, words.mask_decay.channels, words.mask_decay.steps)
    return network


def rate_method(name: Method, lambdas: Sequence[float]) -> RateMethod:
    """Return a rate method by its name."""
    match name:
        case "gain":
            return Gained(lambdas)
        case "scaling":
            return Scaled(lambdas)
        case "mae":
            return Modulated(lambdas)
        case "conditional":
            return Conditional(lambdas)
        case _:
            assert_never(name)


def training_of(
    network: PlainNetwork | SlimNetwork, words: StillCodecTraining, crops: CropSampler, digests: Sequence[str]
) -> RateDistortionTraining:
    """Return the loop for a network of these words.

    Args:
        network: as built.
        words: of the training.
        crops: where from.
        digests: of the pixels of each source of crops.
    """
    identity = identity_of(words, digests)
    if isinstance(network, PlainNetwork):
        return RateDistortionTraining(network, words.schedule, crops, identity)
    assert isinstance(words.codec, SlimCaeCodec | SlimHyperpriorCodec)
    joint = JointWidths(words.codec.per_step, words.codec.weighting)
    return JointWidthsTraining(network, words.schedule, crops, identity, joint)


def identity_of(words: StillCodecTraining, digests: Sequence[str]) -> dict[str, object]:
    """Return what a checkpoint must have in common with a training beside the schedule.

    Args:
        words: of the training.
        digests: of the pixels of each source of crops.
    """
    identity: dict[str, object] = {f"codec.{key}": value for key, value in words.codec.model_dump().items()}
    begun_from = words.start_model()
    identity["start"] = words.start if begun_from is None else begun_from.hash.hex()  # wherever its file lies
    identity["busiest_of"] = words.busiest_of
    identity["mask_decay"] = words.mask_decay and words.mask_decay.model_dump()
    if words.lambda_schedule:
        identity |= {f"lambda_schedule.{key}": value for key, value in words.lambda_schedule.model_dump().items()}
    for number, (source, digest) in enumerate(zip(words.data, digests, strict=True)):
        told = {"weight": source.weight, "decimated": source.decimated, "digest": digest}
        identity |= {f"data[{number}].{name}": value for name, value in told.items()}
    return identity
