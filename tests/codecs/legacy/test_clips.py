"""Clip codecs: what decodes is the clip, the same bytes each time, FFmpeg's own, and damage is refused."""

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.codecs import bitstream
from roadbits.codecs.bitstream import BitstreamError, pack, unpack
from roadbits.codecs.catalogue import decode, decode_clip, still_or_clip_codec_named
from roadbits.codecs.codec import Clip, Image, OperatingPoint
from roadbits.codecs.legacy import clips
from roadbits.codecs.legacy.clips import CLIP_CODECS, H264, HEVC, LegacyClip, encoder_options
from roadbits.codecs.legacy.stills import JPEG
from roadbits.codecs.legacy.yuv420 import to_rgb, to_yuv420
from roadbits.codecs.metrics import psnr
from roadbits.codecs.rate_distortion import measure
from roadbits.codecs.target_rate import encode_at

Maker = Callable[..., Image]
every_codec = pytest.mark.parametrize("codec", CLIP_CODECS, ids=lambda codec: codec.name)


def panned(image: Image, frames: int, height: int, width: int) -> Clip:
    """Return a clip that moves over an image by two pixels to the right and one down for each frame."""
    return np.stack([image[k : k + height, 2 * k : 2 * k + width] for k in range(frames)])


@pytest.fixture(scope="module")
def clip(textured: Maker) -> Clip:
    return panned(textured(140, 260), 36, 96, 128)


@every_codec
def test_rate_and_quality_rise_along_the_ladder(codec: LegacyClip, clip: Clip) -> None:
    ends = [measure(codec, point, [clip]) for point in (codec.points[0], codec.points[3], codec.points[-1])]
    assert ends[0].bpp < ends[1].bpp < ends[2].bpp
    assert ends[0].psnr_db < ends[1].psnr_db < ends[2].psnr_db
    assert ends[2].psnr_db > 23
    assert ends[0].images == len(clip)


@every_codec
def test_a_clip_gives_the_same_bytes_each_time(codec: LegacyClip, clip: Clip) -> None:
    assert len({codec.encode(clip, codec.points[4]) for _ in range(4)}) == 1


@every_codec
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (2, 17, 33), (5, 65, 71), (3, 64, 130)])
def test_any_size_comes_back_in_order(codec: LegacyClip, frames: int, height: int, width: int, smooth: Maker) -> None:
    clip = np.stack(
        [np.clip(smooth(height, width).astype(int) + 12 * k, 0, 255).astype(np.uint8) for k in range(frames)]
    )
    payload = codec.encode(clip, codec.points[-1])
    clip_hat = codec.decode(payload)
    assert clip_hat.shape == clip.shape
    assert min(psnr(image_hat, image) for image_hat, image in zip(clip_hat, clip, strict=True)) > 33


@every_codec
def test_at_one_rate_frames_that_move_on_are_better_than_unrelated_ones(
    codec: LegacyClip, clip: Clip, textured: Maker
) -> None:
    unrelated = np.stack([textured(96, 128, 1 + seed) for seed in range(8)])
    both = [(each, codec.decode(encode_at(codec, each, 0.8).payload)) for each in (clip[:8], unrelated)]
    moving, apart = (psnr(each_hat, each) for each, each_hat in both)
    assert moving > apart + 0.3


@every_codec
def test_a_group_begins_with_a_key_frame(codec: LegacyClip, clip: Clip) -> None:
    body = unpack(codec.encode(clip, codec.points[2])).body
    decoder = av.CodecContext.create(codec.decoder, "r")
    frames = [frame for packet in (*decoder.parse(body), *decoder.parse(), None) for frame in decoder.decode(packet)]
    first, second = (at for at, frame in enumerate(frames) if frame.key_frame)
    assert first == 0
    assert codec.gop_frames - 1 <= second <= codec.gop_frames


def muxed(codec: LegacyClip, clip: Clip, knob: str, value: int) -> bytes:
    """Return what FFmpeg's own muxer writes for the same settings."""
    file = io.BytesIO()
    with av.open(file, "w", format=codec.decoder) as container:
        stream = container.add_stream(codec.encoder, rate=25, options=encoder_options(codec, knob, value))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt, stream.time_base, stream.gop_size = codec.pixel_format, Fraction(1, 25), codec.gop_frames
        stream.codec_context.color_range, stream.codec_context.thread_count = ColorRange.JPEG, 1
        for index, image in enumerate(clip):
            frame = to_yuv420(image, codec.pixel_format)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize(
    "codec", [each for each in CLIP_CODECS if each.decoder in ("h264", "hevc")], ids=lambda c: c.name
)
@pytest.mark.parametrize(("knob", "value"), [("crf", 30), ("qp", 32)])
def test_the_body_is_what_ffmpeg_writes(codec: LegacyClip, knob: str, value: int, clip: Clip) -> None:
    payload = codec.encode(clip[:20], OperatingPoint.of(**{knob: value}))
    assert unpack(payload).body == muxed(codec, clip[:20], knob, value)
    assert len(payload) - len(unpack(payload).body) == 25


def test_a_target_rate_is_met_on_clips(clip: Clip) -> None:
    encoded = encode_at(HEVC, clip, 0.8)
    assert 8 * len(encoded.payload) / clip[..., 0].size == pytest.approx(0.8, rel=0.12)


def test_stills_code_a_clip_frame_by_frame(clip: Clip) -> None:
    point = JPEG.points[3]
    measured = measure(JPEG, point, [clip[:3]])
    assert measured.bpp == 8 * sum(len(JPEG.encode(frame, point)) for frame in clip[:3]) / clip[:3, ..., 0].size
    assert measured.images == 3


@every_codec
def test_a_payload_cut_anywhere_or_flipped_is_refused(codec: LegacyClip, clip: Clip) -> None:
    payload = codec.encode(clip[:6], codec.points[2])
    for k in range(50):
        with pytest.raises(BitstreamError):
            codec.decode(payload[: len(payload) * k // 50])
        damaged = bytearray(payload)
        damaged[len(payload) * k // 50] ^= 0x10
        with pytest.raises(BitstreamError):
            codec.decode(bytes(damaged))


@every_codec
def test_a_body_that_is_cut_and_signed_again_gives_no_clip_of_another_length(codec: LegacyClip, clip: Clip) -> None:
    container = unpack(codec.encode(clip[:6], codec.points[2]))
    for k in range(10):
        body = container.body[: len(container.body) * k // 10]
        try:
            assert codec.decode(pack(replace(container, body=body))).shape == clip[:6].shape
        except BitstreamError:
            continue


@every_codec
def test_a_body_that_is_damaged_and_signed_again_is_refused_or_gives_a_clip_of_its_size(
    codec: LegacyClip, clip: Clip
) -> None:
    """The checksum aside: what FFmpeg makes of damage is not to be known, but never anything else."""
    container, told = unpack(codec.encode(clip[:6], codec.points[2])), 0
    rng = np.random.default_rng(0)
    for k in range(12):
        body = bytearray(container.body)
        for at in rng.integers(len(body), size=1 + 3 * k):
            body[at] ^= 1 << int(rng.integers(8))
        try:
            decoded = codec.decode(pack(replace(container, body=bytes(body))))
        except BitstreamError:
            told += 1
            continue
        assert (decoded.shape, decoded.dtype) == (clip[:6].shape, np.uint8)
    assert told


@every_codec
def test_no_more_is_decoded_than_the_header_promises(
    codec: LegacyClip, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = unpack(codec.encode(clip[:12], codec.points[2]))
    endless = replace(container, body=40 * container.body, point=(2, *container.point[1:]))
    seen: list[int] = []
    monkeypatch.setattr(clips, "to_rgb", lambda frame: seen.append(1) or to_rgb(frame))
    with pytest.raises(BitstreamError, match="does not hold the 2 frames"):
        codec.decode(pack(endless))
    assert len(seen) == 2


@every_codec
def test_a_header_alone_allocates_nothing(codec: LegacyClip, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    container = unpack(codec.encode(clip[:1], codec.points[2]))
    huge = replace(container, point=(8000, *container.point[1:]), height=256, width=256)
    monkeypatch.setattr(bitstream.np, "empty", lambda *_: pytest.fail("allocated"))
    for body in (b"", container.body):
        with pytest.raises(BitstreamError):
            codec.decode(pack(replace(huge, body=body)))


@every_codec
@settings(max_examples=15, deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_is_refused(codec: LegacyClip, noise: bytes, clip: Clip) -> None:
    container = replace(unpack(H264.encode(clip[:1], H264.points[0])), codec_id=codec.codec_id, body=noise)
    with pytest.raises(BitstreamError):
        codec.decode(pack(container))


@every_codec
@pytest.mark.parametrize("point", [(0, 0, 30), (7, 0, 30), (65535, 0, 30)])
def test_a_payload_that_promises_another_number_of_frames_is_refused(
    codec: LegacyClip, point: tuple[int, ...], clip: Clip
) -> None:
    container = unpack(codec.encode(clip[:6], codec.points[2]))
    with pytest.raises(BitstreamError, match="frames"):
        codec.decode(pack(replace(container, point=point)))


@every_codec
def test_a_payload_of_another_size_than_its_header_says_is_refused(codec: LegacyClip, clip: Clip) -> None:
    container = unpack(codec.encode(clip[:2], codec.points[2]))
    with pytest.raises(BitstreamError, match="header needs 96 x 256"):
        codec.decode(pack(replace(container, width=256)))


REFUSED = [
    (np.zeros((2, 64, 64), np.uint8), "expected a clip of uint8"),
    (np.zeros((0, 64, 64, 3), np.uint8), "1 to 65535 frames"),
    (np.zeros((2, 64, 64, 3), np.float32), "expected a clip of uint8"),
    (np.broadcast_to(np.zeros((1, 1, 1, 3), np.uint8), (600, 1024, 1024, 3)), "pixels in all frames"),
]


@pytest.mark.parametrize(("clip", "message"), REFUSED)
def test_what_is_no_clip_is_refused(clip: Clip, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        H264.encode(clip, H264.points[0])


@pytest.mark.parametrize("codec", CLIP_CODECS, ids=lambda codec: codec.name)
def test_a_narrow_clip_gives_the_same_bytes_whatever_the_memory_held_before(codec: LegacyClip) -> None:
    """With 64 columns x265 gave other bytes in half of such repetitions: narrow clips are padded further."""
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 256, (24, 24, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    clips = [np.stack([coarse[k : 112 + k, j : 64 + j] for k in range(4)]) for j in (0, 20)]
    for clip in clips:
        seen = set()
        for _ in range(5):
            held = [rng.bytes(int(rng.integers(10, 500_000))) for _ in range(3)]
            seen.add(codec.encode(clip, codec.points[1]))
            assert len(held) == 3
        assert len(seen) == 1


@pytest.mark.parametrize("text", ["crf=0", "crf=30.5", "q=9", "crf=30,qp=3", "crf=99"])
def test_a_point_that_is_none_is_refused(text: str, clip: Clip) -> None:
    with pytest.raises(ValueError, match=r"h264 has no point .*: expected crf=N, N in 1\.\.51 or qp=N"):
        H264.encode(clip, OperatingPoint.parse(text))


def test_clips_and_stills_are_not_taken_for_each_other(clip: Clip) -> None:
    assert still_or_clip_codec_named("hevc") is HEVC
    assert still_or_clip_codec_named("jpeg") is JPEG
    with pytest.raises(ValueError, match="of clips: mpeg2, h264"):
        still_or_clip_codec_named("h265")
    payload = H264.encode(clip[:2], H264.points[0])
    assert np.array_equal(decode_clip(payload), H264.decode(payload))
    with pytest.raises(BitstreamError, match="clip of h264, expected a still"):
        decode(payload)
    with pytest.raises(BitstreamError, match="of jpeg, expected an encoded clip"):
        decode_clip(JPEG.encode(clip[0], JPEG.points[0]))
