"""Settings of torch, for a while."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest
import torch

Value = TypeVar("Value")


@contextmanager
def _for_a_while(get: Callable[[], Value], put: Callable[[Value], None], value: Value) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def threads(number: int) -> AbstractContextManager[None]:
    return _for_a_while(torch.get_num_threads, torch.set_num_threads, number)


def default_dtype(dtype: torch.dtype) -> AbstractContextManager[None]:
    return _for_a_while(torch.get_default_dtype, torch.set_default_dtype, dtype)


def matmul_precision(precision: str) -> AbstractContextManager[None]:
    return _for_a_while(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, precision)


@contextmanager
def convolution_precision(precision: str) -> Iterator[None]:
    if not hasattr(torch.backends.mkldnn, "conv"):
        pytest.skip("this torch has no precision of its own for convolutions")
    convolutions = torch.backends.mkldnn.conv

    def put(value: str) -> None:
        convolutions.fp32_precision = value

    with _for_a_while(lambda: convolutions.fp32_precision, put, precision):
        yield
