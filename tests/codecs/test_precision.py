import pytest
import torch
from torch import nn

from roadbits.codecs.precision import reduced_dtype, reduced_precision

CPU = torch.device("cpu")

processors = pytest.mark.parametrize(("is_fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])


@processors
def test_a_processor_that_imitates_bfloat16_computes_in_float32(
    is_fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: is_fast)
    assert reduced_dtype(CPU) == dtype
    with reduced_precision(CPU):
        assert nn.Conv2d(2, 3, 1)(torch.ones(1, 2, 4, 4)).dtype == dtype


def test_any_other_device_computes_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert reduced_dtype(torch.device("cuda")) == torch.bfloat16
