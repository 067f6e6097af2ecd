"""Restorers of clips in files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from roadbits.restoration.condition import Condition
from roadbits.restoration.dcngan import ClipRestorer, ClipRestorerSpec, restore_clip
from roadbits.restoration.dcngan_file import open_clip_restorer, pack_clip_restorer
from roadbits.restoration.restoring import RestorerWeightsError

SPEC = ClipRestorerSpec(("av1", "h264"), 4, 1)


def packed() -> tuple[ClipRestorer, bytes]:
    torch.manual_seed(0)
    network = ClipRestorer(SPEC)
    with torch.no_grad():
        network.tail.weight.normal_(0, 0.1)
    weights = save({name: value.contiguous() for name, value in network.state_dict().items()})
    return network.eval(), pack_clip_restorer(SPEC, weights)


def test_a_restorer_comes_back_out_of_its_file() -> None:
    network, file = packed()
    opened = open_clip_restorer(file)
    assert opened.spec == SPEC
    clip = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    told = [Condition("h264", 0.3, 0.2)] * 3
    assert (restore_clip(opened, clip, told) == restore_clip(network, clip, told)).all()


def test_other_weights_are_no_restorer_of_clips() -> None:
    with pytest.raises(RestorerWeightsError, match="no file of a restorer of clips"):
        open_clip_restorer(save({"x": torch.zeros(2)}))


@pytest.mark.parametrize("share", [k / 10 for k in range(10)])
def test_a_file_that_was_cut_is_refused(share: float) -> None:
    _, file = packed()
    with pytest.raises(RestorerWeightsError):
        open_clip_restorer(file[: int(share * len(file))])


def test_a_network_without_bounds_is_refused() -> None:
    _, file = packed()
    told = file.replace(b'channels\\": 4,', b'channels\\":999,')
    assert told != file
    with pytest.raises(RestorerWeightsError, match="1 to 256 channels"):
        open_clip_restorer(told)


@pytest.mark.parametrize("number", [b"Infinity", b"[[[[]]]]"])
def test_words_that_are_no_numbers_are_refused(number: bytes) -> None:
    _, file = packed()
    told = file.replace(b'channels\\": 4,', b'channels\\": ' + number + b",")
    length = int.from_bytes(told[:8], "little") + len(told) - len(file)
    with pytest.raises(RestorerWeightsError):
        open_clip_restorer(length.to_bytes(8, "little") + told[8:])
