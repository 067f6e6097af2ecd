"""How good and how large: PSNR, MS-SSIM, flicker, bits per pixel, and Bjøntegaard's rate difference for PSNR or mIoU.

Sources: MS-SSIM, Wang 2003, computed by pytorch-msssim on RGB in 0..255. BD-rate, Bjøntegaard VCEG-M33 2001, with
monotone cubic interpolation (Fritsch & Carlson 1980) instead of one cubic fit, since a cubic may swing between points.

Not here: mIoU itself (`roadbits.downstream.confusion`), perceptual distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim as _ms_ssim

from roadbits.codecs.codec import Clip, Image

_SMALLEST_SIDE = 161
"""Five scales of an 11-pixel window need sides above 160 pixels."""
_LEAST_OVERLAP = 0.2
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Array = NDArray[np.float64]


def bpp(payload_bytes: int, height: int, width: int) -> float:
    """Return the bits per pixel of payloads of that many bytes in all, header included."""
    return 8 * payload_bytes / (height * width)


def psnr(image: Image, original: Image) -> float:
    """Return the peak signal-to-noise ratio over all three channels, in dB; 100 at most, as for equal images.

    Raises:
        ValueError: if the shapes differ.
    """
    if image.shape != original.shape:
        raise ValueError(f"got images of {image.shape} and {original.shape}, expected the same shape")
    error = image.astype(np.int32) - original
    mse = float(np.mean(error * error, dtype=np.float64))
    return 100.0 if mse == 0 else min(100.0, float(10 * np.log10(255**2 / mse)))


def ms_ssim(image: Image, original: Image) -> float:
    """Return the multi-scale structural similarity in 0..1, five scales as published.

    An image with a side of 160 pixels or less is mirrored at its edges to 161 first.

    Raises:
        ValueError: if the shapes differ.
    """
    if image.shape != original.shape:
        raise ValueError(f"got images of {image.shape} and {original.shape}, expected the same shape")
    height, width = image.shape[:2]
    mirrored = ((0, max(0, _SMALLEST_SIDE - height)), (0, max(0, _SMALLEST_SIDE - width)), (0, 0))
    pair = [np.pad(each, mirrored, mode="symmetric").astype(np.float32) for each in (image, original)]
    tensors = [torch.from_numpy(each.transpose(2, 0, 1)[None].copy()) for each in pair]
    return float(_ms_ssim(*tensors, data_range=255))


def flicker(clip: Clip, original: Clip) -> float:
    """Return how differently two clips (T, H, W, 3) change from frame to frame, in grey levels of luma.

    The mean over pixels and frames of |(x_hat_t - x_hat_{t-1}) - (x_t - x_{t-1})|; 0 for a single frame.

    Raises:
        ValueError: if the shapes differ.
    """
    if clip.shape != original.shape:
        raise ValueError(f"got clips of {clip.shape} and {original.shape}, expected the same shape")
    luma = [(ours.astype(np.float32) - theirs) @ _LUMA for ours, theirs in zip(clip, original, strict=True)]
    changes = [float(np.abs(after - before).mean()) for before, after in pairwise(luma)]
    return float(np.mean(changes)) if changes else 0.0


@dataclass(frozen=True)
class RateQuality:
    """A curve: quality (dB, or mIoU in 0..1) at measured rates (bpp), in any order."""

    rates: Sequence[float]
    qualities: Sequence[float]

    def within(self, lowest: float, highest: float) -> "RateQuality":
        """Return the curve's hull between two rates, its ends interpolated where they lie inside the measured rates.

        Raises:
            ValueError: if the curve does not reach into that range, or is no curve.
        """
        x, y = _hull(self)
        low, high = max(x[0], np.log(lowest)), min(x[-1], np.log(highest))
        if low >= high:
            measured = f"{np.exp(x[0]):.3g} to {np.exp(x[-1]):.3g}"
            raise ValueError(f"expected rates within {lowest:g} to {highest:g} bpp, the curve has {measured}")
        inside = (x > low) & (x < high)
        ends = _pchip(x, y, np.array([low, high]))
        rates = np.exp(np.concatenate(([low], x[inside], [high])))
        return RateQuality(rates.tolist(), [float(ends[0]), *y[inside].tolist(), float(ends[1])])


@dataclass(frozen=True)
class BdRate:
    """A Bjøntegaard rate difference and how far it can be trusted.

    Attributes:
        percent: mean rate difference at equal quality, negative where the first curve needs fewer bits; None where the
            curves share too little of their quality ranges to say.
        overlap: share of the narrower quality range that both curves cover, 0..1.
        low: lower end of the shared quality range.
        high: upper end of it.
    """

    percent: float | None
    overlap: float
    low: float
    high: float


def bd_rate(curve: RateQuality, reference: RateQuality) -> BdRate:
    """Return how many percent more bits a curve needs than the reference at equal quality.

    Points that cost more than another without being better are dropped (the upper hull), so the inverse exists even for
    mIoU, which may fall with rate. The mean of the log-rate difference is taken over the shared quality range only;
    where that is under a fifth of the narrower range, `percent` is None.

    Raises:
        ValueError: if a curve has rates that are not positive, values that are not finite, or unequal lengths.
    """
    (x, y), (x_ref, y_ref) = _hull(curve), _hull(reference)
    low, high = max(y[0], y_ref[0]), min(y[-1], y_ref[-1])
    narrower = min(y[-1] - y[0], y_ref[-1] - y_ref[0])
    overlap = float(max(0.0, high - low) / narrower) if narrower > 0 else 0.0
    if overlap < _LEAST_OVERLAP:
        return BdRate(None, overlap, float(low), float(high))
    at = np.linspace(low, high, 1001)
    difference = _pchip(y, x, at) - _pchip(y_ref, x_ref, at)
    mean = float(np.sum((difference[1:] + difference[:-1]) / 2) / (len(at) - 1))
    return BdRate(100 * float(np.expm1(mean)), overlap, float(low), float(high))


def quality_at(curve: RateQuality, rate: float) -> float | None:
    """Return a curve's quality at a rate, or None outside its rates.

    The curve is that of `bd_rate`: monotone over the log of the rate, and level beyond its best point.

    Raises:
        ValueError: if the curve has under two points, rates that are not positive, or values that are not finite.
    """
    x, y = _hull(curve)
    if not min(curve.rates) <= rate <= max(curve.rates):
        return None
    if len(x) == 1:
        return float(y[0])
    return float(_pchip(x, y, np.array([min(np.log(rate), x[-1])]))[0])


def _hull(curve: RateQuality) -> tuple[Array, Array]:
    """Return log-rates and qualities, both strictly rising: each point better than all cheaper ones."""
    rates, qualities = np.asarray(curve.rates, np.float64), np.asarray(curve.qualities, np.float64)
    if rates.shape != qualities.shape or rates.ndim != 1 or len(rates) < 2:
        raise ValueError(f"a curve needs two or more points, got {rates.shape} rates and {qualities.shape} qualities")
    if not (np.isfinite(rates).all() and np.isfinite(qualities).all() and (rates > 0).all()):
        raise ValueError("a curve needs finite qualities and finite rates above 0")
    order = np.lexsort((-qualities, rates))
    rates, qualities = rates[order], qualities[order]
    best_cheaper = np.concatenate(([-np.inf], np.maximum.accumulate(qualities)[:-1]))
    kept = qualities > best_cheaper
    return np.log(rates[kept]), qualities[kept]


def _pchip(x: Array, y: Array, at: Array) -> Array:
    """Interpolate y over rising x at given places by a monotone cubic; a straight line through two points."""
    width, slope = np.diff(x), np.diff(y) / np.diff(x)
    tangent = np.concatenate((slope[:1], np.zeros(len(x) - 2), slope[-1:]))
    if len(x) > 2:
        before, after = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
        rising = slope[:-1] * slope[1:] > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            harmonic = (before + after) / (before / slope[:-1] + after / slope[1:])
        tangent[1:-1] = np.where(rising, harmonic, 0.0)
        tangent[0] = _end_tangent(width[0], width[1], slope[0], slope[1])
        tangent[-1] = _end_tangent(width[-1], width[-2], slope[-1], slope[-2])
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    t = (at - x[k]) / width[k]
    cubic: Array = (
        y[k] * (1 + 2 * t) * (1 - t) ** 2
        + tangent[k] * width[k] * t * (1 - t) ** 2
        + y[k + 1] * t**2 * (3 - 2 * t)
        + tangent[k + 1] * width[k] * t**2 * (t - 1)
    )
    return cubic


def _end_tangent(width: float, next_width: float, slope: float, next_slope: float) -> float:
    """Return the three-point tangent at an end, limited so that the curve stays monotone."""
    tangent = ((2 * width + next_width) * slope - width * next_slope) / (width + next_width)
    if tangent * slope <= 0:
        return 0.0
    if slope * next_slope < 0 and abs(tangent) > 3 * abs(slope):
        return 3 * slope
    return float(tangent)
