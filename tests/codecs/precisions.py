"""Settings of torch by which a processor may compute float32 in less, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def convolution_precision(precision: str) -> Iterator[None]:
    if not hasattr(torch.backends.mkldnn, "conv"):
        pytest.skip("this torch has no precision of its own for convolutions")
    before = torch.backends.mkldnn.conv.fp32_precision
    torch.backends.mkldnn.conv.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.mkldnn.conv.fp32_precision = before
