"""Rate-distortion curves on real bytes, for any codec of stills or clips.

A point's rate is all bits over all pixels; PSNR and MS-SSIM are means over images, as in the published tables, or over
frames of all clips. Still codecs code each frame of a clip for itself. BD-rates are over PSNR, against every other
codec.

Not here: plots and the command line.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from roadbits.codecs.codec import Clip, ClipCodec, Codec, Image, OperatingPoint, is_clip_codec
from roadbits.codecs.metrics import BdRate, RateQuality, bd_rate, bpp, flicker, ms_ssim, psnr

_CLIP_AXES = 4


Distance = Callable[[Image, Image], float]
"""How far an image is from its original, in somebody's eyes."""


@dataclass(frozen=True)
class RdPoint:
    """One codec at one operating point over a set of images or clips.

    Attributes:
        codec: its name.
        point: its operating point.
        images: how many, or frames of all clips.
        bpp: all bits over all pixels.
        psnr_db: mean over images.
        ms_ssim: likewise.
        encode_s: mean over images, on this machine.
        decode_s: likewise.
        flicker: mean over clips, see `metrics.flicker`; None for images.
        distance: mean over images of a perceptual distance; None if none was asked for.
        psnr_over_time: mean over clips of each of their frames, in dB; empty for images.
        ms_ssim_over_time: likewise.
    """

    codec: str
    point: str
    images: int
    bpp: float
    psnr_db: float
    ms_ssim: float
    encode_s: float
    decode_s: float
    flicker: float | None = None
    distance: float | None = None
    psnr_over_time: tuple[float, ...] = ()
    ms_ssim_over_time: tuple[float, ...] = ()


def measure(
    codec: Codec | ClipCodec,
    point: OperatingPoint,
    images: Iterable[Image | Clip],
    distance: Distance | None = None,
) -> RdPoint:
    """Encode and decode every image, uint8 (H, W, 3) each, or every clip, uint8 (T, H, W, 3).

    Raises:
        ValueError: if there are no images.
    """
    payload_bytes = pixels = 0
    seconds: list[tuple[float, float]] = []
    qualities: list[list[tuple[float, float, float]]] = []
    flickers: list[float] = []
    for image in images:
        is_clip, decoded = image.ndim == _CLIP_AXES, []
        # A codec of stills takes the frames of a clip one by one.
        for part in image if is_clip and not is_clip_codec(codec) else [image]:
            start = time.perf_counter()
            payload = codec.encode(part, point)
            encoded = time.perf_counter()
            part_hat = codec.decode(payload)
            seconds.append((encoded - start, time.perf_counter() - encoded))
            decoded += list(part_hat.reshape(-1, *part_hat.shape[-3:]))
            payload_bytes += len(payload)
            pixels += part[..., 0].size
        frames = image.reshape(-1, *image.shape[-3:])
        pairs = list(zip(decoded, frames, strict=True))
        qualities.append([(psnr(*pair), ms_ssim(*pair), distance(*pair) if distance else 0.0) for pair in pairs])
        if is_clip:
            flickers.append(flicker(np.stack(decoded), frames))
    if not qualities:
        raise ValueError("no images to measure: expected at least one")
    rows = np.array([row for clip in qualities for row in clip])
    longest = max(map(len, qualities)) if flickers else 0
    over_time = [np.mean([clip[k] for clip in qualities if k < len(clip)], axis=0) for k in range(longest)]
    return RdPoint(
        codec.name,
        str(point),
        len(rows),
        bpp(payload_bytes, pixels, 1),
        float(rows[:, 0].mean()),
        float(rows[:, 1].mean()),
        sum(encode_s for encode_s, _ in seconds) / len(rows),
        sum(decode_s for _, decode_s in seconds) / len(rows),
        flicker=float(np.mean(flickers)) if flickers else None,
        distance=float(rows[:, 2].mean()) if distance else None,
        psnr_over_time=tuple(float(row[0]) for row in over_time),
        ms_ssim_over_time=tuple(float(row[1]) for row in over_time),
    )


def measure_all(
    codecs: Sequence[Codec | ClipCodec],
    images: Callable[[], Iterable[Image | Clip]],
    done: Callable[[RdPoint], None] = lambda _: None,
    distance: Distance | None = None,
) -> list[RdPoint]:
    """Measure every codec at every point of its ladder; `images` is called once per point, `done` after each."""
    points = []
    for codec in codecs:
        for point in codec.points:
            points.append(measure(codec, point, images(), distance))
            done(points[-1])
    return points


def bd_rates(points: Sequence[RdPoint], bpp_range: tuple[float, float] | None = None) -> dict[str, BdRate]:
    """Return the BD-rate over PSNR of each codec against each other one, keyed `A vs B`; needs two points of each.

    Args:
        points: of all codecs.
        bpp_range: take only what curves do between these rates; codecs without rates there are left out.
    """
    curves = _curves(points, bpp_range)
    return {f"{a} vs {b}": bd_rate(curves[a], curves[b]) for a in curves for b in curves if a != b}


def without_rates(points: Sequence[RdPoint], bpp_range: tuple[float, float]) -> list[str]:
    """Return the codecs that `bd_rates` leaves out, for lack of rates in a range."""
    return sorted({point.codec for point in points} - set(_curves(points, bpp_range)))


def _curves(points: Sequence[RdPoint], bpp_range: tuple[float, float] | None) -> dict[str, RateQuality]:
    curves = {}
    for name in dict.fromkeys(point.codec for point in points):
        mine = [point for point in points if point.codec == name]
        if len(mine) > 1:
            curve = RateQuality([each.bpp for each in mine], [each.psnr_db for each in mine])
            try:
                curves[name] = curve.within(*bpp_range) if bpp_range else curve
            except ValueError:
                continue
    return curves
