"""What encoding costs a vehicle's computer: time, energy and memory of every point of a codec.

A codec with networks is charged by its exact multiply-accumulates, unless the device names the codec among the measured
speeds; a codec without is charged by its measured speed.

Not here: which point is chosen (`policies`), whether a scenario can be run at all (`feasibility`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.codec import AnyCodec, OperatingPoint
from roadbits.fleet.scenario import Device


@dataclass(frozen=True, eq=False)
class Ladder:
    """Points of a codec with what each costs one device for one frame of one size.

    Attributes:
        points: (n,), from the lowest rate up.
        macs: int64 (n,), multiply-accumulates to encode a frame.
        seconds: float64 (n,), to encode it.
        joules: float64 (n,), to encode it.
        memory_bytes: int64 (n,), weights and activations while encoding.
        decode_macs: int64 (n,), to decode it, as a trial does.
        decode_seconds: float64 (n,), to decode it; of a codec without networks as long as to encode it, which is more
            than any needs.
        decode_joules: float64 (n,), likewise.
        fits: bool (n,), whether the device has that memory.
    """

    points: tuple[OperatingPoint, ...]
    macs: NDArray[np.int64]
    seconds: NDArray[np.float64]
    joules: NDArray[np.float64]
    memory_bytes: NDArray[np.int64]
    decode_macs: NDArray[np.int64]
    decode_seconds: NDArray[np.float64]
    decode_joules: NDArray[np.float64]
    fits: NDArray[np.bool_]


def is_charged_by_macs(device: Device, codec: AnyCodec) -> bool:
    """Return whether a codec's time and energy follow from its multiply-accumulates."""
    return codec.name not in device.encode_mpx_per_s and bool(codec.model_hash)


def ladder_of(
    device: Device, codec: AnyCodec, height: int, width: int, points: tuple[OperatingPoint, ...] = ()
) -> Ladder:
    """Return what points of a codec, all its points if none are given, cost a device for one frame.

    Raises:
        ValueError: if the device does not say how fast it is.
    """
    points = points or codec.all_points
    costs = [codec.complexity(point, height, width) for point in points]
    macs = np.array([cost.encode_macs for cost in costs], np.int64)
    decode_macs = np.array([cost.decode_macs for cost in costs], np.int64)
    memory_bytes = np.array([cost.encode_memory_bytes for cost in costs], np.int64)
    seconds = encode_seconds(device, codec, macs, height, width)
    decode_seconds = encode_seconds(device, codec, decode_macs, height, width)
    return Ladder(
        points,
        macs,
        seconds,
        encode_joules(device, codec, seconds, macs),
        memory_bytes,
        decode_macs,
        decode_seconds,
        encode_joules(device, codec, decode_seconds, decode_macs),
        memory_bytes <= (np.inf if device.memory_mb is None else device.memory_mb * 1e6),
    )


def encode_seconds(
    device: Device, codec: AnyCodec, macs: NDArray[np.int64], height: int, width: int
) -> NDArray[np.float64]:
    """Return how long a device needs for one frame at points of these multiply-accumulates (n,).

    Raises:
        ValueError: if the device does not say how fast it is.
    """
    if is_charged_by_macs(device, codec):
        if device.gmac_per_s is None:
            raise ValueError(f"the device says nothing of {codec.name}: give fleet.device.gmac_per_s")
        return macs / 1e9 / device.gmac_per_s
    if codec.name not in device.encode_mpx_per_s:
        raise ValueError(f"the device says nothing of {codec.name}: give fleet.device.encode_mpx_per_s.{codec.name}")
    return np.full(len(macs), height * width / 1e6 / device.encode_mpx_per_s[codec.name])


def encode_joules(
    device: Device, codec: AnyCodec, seconds: NDArray[np.float64], macs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the energy of computing for these seconds (n,) and multiply-accumulates (n,).

    Raises:
        ValueError: if the device does not say what it takes.
    """
    if not is_charged_by_macs(device, codec):
        return device.encode_watts * seconds
    if device.joules_per_gmac is None:
        raise ValueError(f"the device says nothing of {codec.name}: give fleet.device.joules_per_gmac")
    return macs / 1e9 * device.joules_per_gmac


def radio_joules(device: Device, payload_bytes: float) -> float:
    """Return the energy of sending."""
    return device.radio_joules_per_mbit * 8 * payload_bytes / 1e6
