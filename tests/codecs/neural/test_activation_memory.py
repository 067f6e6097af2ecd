"""The activation memory that a codec promises, against a run that counts every float32 tensor as it comes and goes."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from roadbits.codecs.catalogue import codec_named, shipped_names
from roadbits.codecs.codec import Image
from roadbits.codecs.integer import ExactLayer, ExactTransform, Shape
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import NeuralStill


class _Counting(TorchDispatchMode):
    """Adds up the bytes of living float32 storages, and keeps the most they came to."""

    def __init__(self) -> None:
        super().__init__()
        self.living: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.dtype == torch.float32:
                self._note(result.untyped_storage(), given)
        return results

    def _note(self, storage: Any, given: set[int]) -> None:
        key = storage._cdata
        if key not in given and key not in self.living:
            self.living[key] = storage.nbytes()
            weakref.finalize(storage, self.living.pop, key)
            self.peak = max(self.peak, sum(self.living.values()))


def layer(kind: Any, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> ExactLayer:
    shape = Shape(kind, stride, "steps", 511, groups)
    places = (inputs, outputs) if kind == "up" else (outputs, inputs)
    return ExactLayer(
        shape, torch.ones(*places, kernel, kernel), torch.ones(outputs), torch.ones(outputs), torch.ones(())
    )


@pytest.mark.parametrize("groups", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "layers",
    [
        [("down", 4, 12, 5, 2), ("gdn", 12, 12, 1, 1), ("down", 12, 8, 3, 2)],
        [("up", 8, 12, 5, 2), ("igdn", 12, 12, 1, 1), ("up", 12, 4, 5, 2)],
        [("up", 12, 4, 9, 4)],
    ],
    ids=["analysis", "synthesis", "gathered"],
)
def test_a_transform_takes_the_memory_it_says(layers: list[Any], groups: int) -> None:
    transform = ExactTransform(tuple(layer(*words, groups=groups) for words in layers))
    values = torch.ones(1, transform.num_inputs, 16, 24).contiguous(memory_format=torch.channels_last)
    transform(values)  # what a layer keeps for good is made on the first call
    with torch.inference_mode(), _Counting() as counted:
        transform(values * 1)
    assert counted.peak == transform.peak_bytes(16, 24)


def test_an_encode_takes_the_memory_it_says(model: FrozenModel, textured: Callable[..., Image]) -> None:
    _check(NeuralStill(model.description.architecture, model), textured(128, 192))


@pytest.mark.parametrize("name", shipped_names())
def test_an_encode_with_shipped_weights_takes_the_memory_it_says(name: str, textured: Callable[..., Image]) -> None:
    codec = codec_named(name)
    assert isinstance(codec, NeuralStill | SlimStill)
    for alone in codec.codecs.values() if isinstance(codec, SlimStill) else (codec,):
        _check(alone, textured(100, 130))


def _check(codec: NeuralStill, image: Image) -> None:
    point = codec.points[-1]
    codec.encode(image, point)
    with _Counting() as counted:
        codec.encode(image, point)
    cost = codec.complexity(point, *image.shape[:2])
    assert counted.peak == cost.peak_activation_bytes
    assert cost.encode_memory_bytes == cost.weight_bytes + cost.peak_activation_bytes
