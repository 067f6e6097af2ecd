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
from roadbits.codecs.metrics import BdRate, RateQuality, bd_rate, bpp, ms_ssim, psnr

_CLIP_AXES = 4


@dataclass(frozen=True)
class RdPoint:
    """One codec at one operating point over a set of images or clips; seconds are means per frame on this machine."""

    codec: str
    point: str
    images: int
    bpp: float
    psnr_db: float
    ms_ssim: float
    encode_s: float
    decode_s: float


def measure(codec: Codec | ClipCodec, point: OperatingPoint, images: Iterable[Image | Clip]) -> RdPoint:
    """Encode and decode every image, uint8 (H, W, 3) each, or every clip, uint8 (T, H, W, 3).

    Raises:
        ValueError: if there are no images.
    """
    payload_bytes = pixels = 0
    rows = []
    for image in images:
        # A codec of stills takes the frames of a clip one by one.
        for part in image if image.ndim == _CLIP_AXES and not is_clip_codec(codec) else [image]:
            start = time.perf_counter()
            payload = codec.encode(part, point)
            encoded = time.perf_counter()
            part_hat = codec.decode(payload)
            decoded = time.perf_counter()
            frames = part.reshape(-1, *part.shape[-3:])
            seconds = (encoded - start) / len(frames), (decoded - encoded) / len(frames)
            pairs = zip(part_hat.reshape(frames.shape), frames, strict=True)
            rows += [(psnr(frame_hat, frame), ms_ssim(frame_hat, frame), *seconds) for frame_hat, frame in pairs]
            payload_bytes += len(payload)
            pixels += part[..., 0].size
    if not rows:
        raise ValueError("no images to measure: expected at least one")
    quality, similarity, encode_s, decode_s = (float(mean) for mean in np.mean(rows, axis=0))
    rate = bpp(payload_bytes, pixels, 1)
    return RdPoint(codec.name, str(point), len(rows), rate, quality, similarity, encode_s, decode_s)


def measure_all(
    codecs: Sequence[Codec | ClipCodec],
    images: Callable[[], Iterable[Image | Clip]],
    done: Callable[[RdPoint], None] = lambda _: None,
) -> list[RdPoint]:
    """Measure every codec at every point of its ladder; `images` is called once per point, `done` after each."""
    points = []
    for codec in codecs:
        for point in codec.points:
            points.append(measure(codec, point, images()))
            done(points[-1])
    return points


def bd_rates(points: Sequence[RdPoint], bpp_range: tuple[float, float] | None = None) -> dict[str, BdRate]:
    """Return the BD-rate over PSNR of each codec against each other one, keyed `A vs B`; needs two points of each.

    Args:
        points: of all codecs.
        bpp_range: take only what curves do between these rates; codecs without rates there are left out.
    """
    curves = {}
    for name in dict.fromkeys(point.codec for point in points):
        mine = [point for point in points if point.codec == name]
        if len(mine) > 1:
            curve = RateQuality([each.bpp for each in mine], [each.psnr_db for each in mine])
            try:
                curves[name] = curve.within(*bpp_range) if bpp_range else curve
            except ValueError:
                continue
    return {f"{a} vs {b}": bd_rate(curves[a], curves[b]) for a in curves for b in curves if a != b}
