"""One payload, one image: whatever threads, backend, memory format and precision torch is set to."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from roadbits.codecs import integer
from roadbits.codecs.codec import Image
from roadbits.codecs.neural import still
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
from tests.codecs.torch_settings import convolution_precision, default_dtype, matmul_precision, threads

Maker = Callable[..., Image]
Tiny = Callable[..., FrozenModel]
Setting = Callable[[pytest.MonkeyPatch], AbstractContextManager[None]]

WIDTH = 64
"""Wide enough that a convolution sums 1,600 products, in two groups."""


class Case(NamedTuple):
    """A codec, an image, and what came of it under torch's usual settings."""

    codec: NeuralStill
    image: Image
    payload: bytes
    decoded: Image


@pytest.fixture(scope="module", params=["cae", "mean-scale", "scale-only", "scale-context", "mean-context"])
def case(request: pytest.FixtureRequest, tiny: Tiny, textured: Maker) -> Case:
    codec = NeuralStill("wide", tiny(request.param, channels=WIDTH))
    image = textured(100, 139)
    payload = codec.encode(image, codec.fine_points[3])
    return Case(codec, image, payload, codec.decode(payload))


def check(case: Case) -> None:
    """Check that encoding and decoding give what they gave before."""
    assert case.codec.encode(case.image, case.codec.fine_points[3]) == case.payload
    assert np.array_equal(case.codec.decode(case.payload), case.decoded)


@contextmanager
def without_mkldnn(patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(torch.backends.mkldnn, "enabled", False)
    yield


@contextmanager
def contiguous(patch: pytest.MonkeyPatch) -> Iterator[None]:
    patch.setattr(still, "_channels_last", Tensor.contiguous)
    yield


@contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


SETTINGS: dict[str, Setting] = {
    "one thread": lambda _: threads(1),
    "two threads": lambda _: threads(2),
    "no mkldnn": without_mkldnn,
    "contiguous": contiguous,
    "high precision": lambda _: matmul_precision("high"),
    "medium precision": lambda _: matmul_precision("medium"),
    "bf16 convolutions": lambda _: convolution_precision("bf16"),
    "tf32 convolutions": lambda _: convolution_precision("tf32"),
    "float64 by default": lambda _: default_dtype(torch.float64),
    "autocast": lambda _: autocast(),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_torch_changes_nothing(setting: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with SETTINGS[setting](monkeypatch):
        check(case)


def test_the_settings_do_change_what_floating_point_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were all of them without effect, the test above would say nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, WIDTH, 40, 40, generator=generator)
    weight = torch.randn(WIDTH, WIDTH, 5, 5, generator=generator)
    before = torch.nn.functional.conv2d(x, weight)
    for setting in ("no mkldnn", "autocast") if torch.backends.mkldnn.is_available() else ("autocast",):
        with monkeypatch.context() as patch, SETTINGS[setting](patch):
            assert not torch.equal(torch.nn.functional.conv2d(x, weight).float(), before)


def test_the_order_of_the_input_channels_changes_nothing(tiny: Tiny) -> None:
    layer = tiny("cae", channels=WIDTH).g_a.layers[2]
    assert layer.shape.groups == 2
    x = torch.randint(-511, 512, (1, WIDTH, 24, 24), generator=torch.Generator().manual_seed(0)).float()
    half = WIDTH // 2
    order = torch.cat((torch.randperm(half), half + torch.randperm(half)))
    shuffled = integer.ExactLayer(layer.shape, layer.weight[:, order], layer.multiplier, layer.offset, layer.square)
    assert torch.equal(layer(x), shuffled(x[:, order]))


PROGRAM = """
import hashlib, sys
from pathlib import Path
import numpy as np
import torch
from roadbits.codecs.neural.model_file import FrozenModel
from roadbits.codecs.neural.still import NeuralStill
folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
image = np.load(folder / "image.npy")
for path in sorted(folder.glob("*.safetensors")):
    codec = NeuralStill("wide", FrozenModel.load(path))
    payload = codec.encode(image, codec.fine_points[3])
    print(hashlib.sha256(payload).hexdigest(), hashlib.sha256(codec.decode(payload).tobytes()).hexdigest())
"""


@pytest.mark.parametrize(
    ("num_threads", "environment"),
    [("2", {}), ("1", {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"})],
    ids=["two threads", "an older processor"],
)
def test_another_process_gives_the_same(
    num_threads: str, environment: dict[str, str], tiny: Tiny, textured: Maker, tmp_path: Path
) -> None:
    image, expected = textured(70, 90), []
    np.save(tmp_path / "image.npy", image)
    for number, design in enumerate(("cae", "mean-scale", "scale-only", "scale-context", "mean-context")):
        model = tiny(design, channels=WIDTH)
        model.save(tmp_path / f"{number}.safetensors")
        codec = NeuralStill("wide", model)
        payload = codec.encode(image, codec.fine_points[3])
        for made in (payload, codec.decode(payload).tobytes()):
            expected.append(hashlib.sha256(made).hexdigest())
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), num_threads],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    assert run.stdout.split() == expected
