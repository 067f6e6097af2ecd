"""Adapters in the making: their parameters as one vector, and the bytes in which vehicles and server exchange it.

    magic, with residuals or not, hash of the source    11 bytes
    density: stretch, shift and tail of each channel     float16
    each residual: scale of each row                     float16, weights int8, offsets float16
    CRC-32                                               4 bytes

From the same bytes everyone builds the same adapter, its entropy tables included, and knows it by its hash: the tables
need not travel. A row of weights is stored to a 127th of its largest; a mean of many updates loses less than one.

Not here: the adapter that is built (`danice`), who sends what to whom (`roadbits.fleet.sharing`).
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.adaptation.danice import AdapterError
from roadbits.codecs.adaptation.enhancement import Residuals
from roadbits.codecs.bitstream import HASH_BYTES
from roadbits.codecs.neural.model_file import FrozenModel

Vector = NDArray[np.float32]

_MAGIC = b"RBU1"
_HEAD_BYTES = len(_MAGIC) + 1 + HASH_BYTES
_CRC_BYTES = 4
_LEVELS = 127


def unadapted(source: FrozenModel, with_residuals: bool = True) -> Residuals:
    """Return an enhancement of a source before any step; without residuals its density alone can move."""
    return Residuals(source, None if with_residuals else ())


def vector_of(enhancement: Residuals) -> Vector:
    """Return an enhancement's parameters, float32 (n,): the density's, then those of each residual."""
    return np.concatenate([tensor.detach().numpy().ravel() for _, tensor in _parts(enhancement)])


@torch.no_grad()
def set_vector(enhancement: Residuals, vector: Vector) -> None:
    """Give an enhancement its parameters.

    Raises:
        AdapterError: if they are not as many as it has, or not finite.
    """
    parts = list(_parts(enhancement))
    wanted = sum(tensor.numel() for _, tensor in parts)
    if vector.shape != (wanted,):
        raise AdapterError(f"the update has shape {vector.shape}, the source takes ({wanted},)")
    if not np.isfinite(vector).all():
        raise AdapterError("the update holds numbers that are not finite")
    first = 0
    for _, tensor in parts:
        tensor.copy_(torch.from_numpy(vector[first : first + tensor.numel()].astype(np.float32)).reshape(tensor.shape))
        first += tensor.numel()


def packed(enhancement: Residuals) -> bytes:
    """Return the bytes in which an enhancement's parameters travel.

    Raises:
        AdapterError: if a number is not finite or too large for what it is stored in.
    """
    body = bytearray()
    for is_matrix, tensor in _parts(enhancement):
        values = tensor.detach().numpy().astype(np.float64)
        if is_matrix:
            rows = values.reshape(len(values), -1)
            scales = _scales(rows)
            body += _halves(scales)
            steps = np.divide(rows, scales[:, None], out=np.zeros_like(rows), where=scales[:, None] > 0)
            body += np.clip(np.rint(steps), -_LEVELS, _LEVELS).astype(np.int8).tobytes()
        else:
            body += _halves(values.ravel())
    head = _MAGIC + bytes([bool(enhancement.places)]) + enhancement.source.hash
    return head + bytes(body) + zlib.crc32(head + body).to_bytes(_CRC_BYTES, "little")


def unpacked(source: FrozenModel, data: bytes) -> Residuals:
    """Return the enhancement that `packed` wrote, as far as the bytes tell it.

    Raises:
        AdapterError: if the bytes are damaged, of another source, of another size, or hold what is not finite.
    """
    if len(data) < _HEAD_BYTES + _CRC_BYTES or not data.startswith(_MAGIC):
        raise AdapterError(f"{len(data)} bytes that are no adapter's update")
    if zlib.crc32(data[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "little") != data[-_CRC_BYTES:]:
        raise AdapterError("the update is damaged: its checksum differs")
    of = data[len(_MAGIC) + 1 : _HEAD_BYTES]
    if of != source.hash:
        raise AdapterError(f"the update adapts the model {of.hex()}, the source is {source.hash.hex()}")
    enhancement = unadapted(source, with_residuals=bool(data[len(_MAGIC)]))
    wanted = _HEAD_BYTES + _CRC_BYTES + sum(_num_bytes(*part) for part in _parts(enhancement))
    if len(data) != wanted:
        raise AdapterError(f"the update has {len(data)} bytes, expected {wanted}")
    set_vector(enhancement, _read(enhancement, data[_HEAD_BYTES:-_CRC_BYTES]))
    return enhancement


def _parts(enhancement: Residuals) -> Iterator[tuple[bool, Tensor]]:
    """Yield each parameter in the order in which they travel, and whether it is a matrix."""
    for name, parameter in enhancement.named_parameters():
        yield name.startswith("residuals.") and name.endswith(".weight"), parameter


def _num_bytes(is_matrix: bool, tensor: Tensor) -> int:
    return tensor.numel() + 2 * len(tensor) if is_matrix else 2 * tensor.numel()


def _read(enhancement: Residuals, body: bytes) -> Vector:
    values, first = list[NDArray[np.float64]](), 0
    for is_matrix, tensor in _parts(enhancement):
        halves = np.frombuffer(body, np.float16, len(tensor) if is_matrix else tensor.numel(), first)
        first += halves.nbytes
        if is_matrix:
            steps = np.frombuffer(body, np.int8, tensor.numel(), first).reshape(len(tensor), -1)
            first += steps.nbytes
            values.append((halves.astype(np.float64)[:, None] * steps).ravel())
        else:
            values.append(halves.astype(np.float64))
    return np.concatenate(values).astype(np.float32)


def _scales(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's step, float64 (rows,), as a half can hold it; none so small that the largest is clipped."""
    exact = np.abs(rows).max(axis=1) / _LEVELS
    with np.errstate(over="ignore"):
        stored = exact.astype(np.float16)
        stored = np.where(stored < exact, np.nextafter(stored, np.float16(np.inf)), stored)
    steps: NDArray[np.float64] = stored.astype(np.float64)
    return steps


def _halves(values: NDArray[np.float64]) -> bytes:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise AdapterError("the update holds numbers that are not finite, or too large")
    return halves.tobytes()
