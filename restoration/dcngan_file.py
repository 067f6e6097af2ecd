"""DCNGAN in a file: safetensors, with the words of the network in its metadata.

Not here: the network (`dcngan`), training it (`clip_training`).
"""

import json
from dataclasses import asdict

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from roadbits.restoration.dcngan import ClipRestorer, ClipRestorerSpec
from roadbits.restoration.restoring import RestorerWeightsError, with_weights

_KEY = "roadbits-clip-restorer"
_LENGTH_BYTES = 8


def pack_clip_restorer(spec: ClipRestorerSpec, weights: bytes) -> bytes:
    """Return the file of a network and its weights, safetensors of their own."""
    return save_tensors(load_tensors(weights), {_KEY: json.dumps(asdict(spec))})


def spec_of(file: bytes) -> ClipRestorerSpec:
    """Return which network a file holds, without opening it.

    Raises:
        RestorerWeightsError: if it does not say.
    """
    end = _LENGTH_BYTES + int.from_bytes(file[:_LENGTH_BYTES], "little")
    try:
        words = json.loads(json.loads(file[_LENGTH_BYTES:end])["__metadata__"][_KEY])
        return ClipRestorerSpec(tuple(map(str, words["codecs"])), int(words["channels"]), int(words["blocks"]))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RestorerWeightsError(f"no file of a restorer of clips: {error}") from error


def open_clip_restorer(file: bytes) -> ClipRestorer:
    """Return the restorer of a file's bytes, ready to restore.

    Raises:
        RestorerWeightsError: if they hold none, or weights that do not fit it.
    """
    spec = spec_of(file)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in ClipRestorer(spec).state_dict().items()}
    # Before it is allocated: the file's own size bounds what its words may ask for.
    if expected != {name: value.shape for name, value in _tensors(file).items()}:
        raise RestorerWeightsError(f"no file of a restorer of clips: its weights are not those of {spec}")
    return with_weights(ClipRestorer(spec), file)


def _tensors(file: bytes) -> dict[str, Tensor]:
    try:
        return load_tensors(file)
    except SafetensorError as error:
        raise RestorerWeightsError(f"no file of a restorer of clips: {error}") from error
