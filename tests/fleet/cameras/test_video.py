import gc
import os
import pickle
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from roadbits.fleet.cameras import video
from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.cameras.video import VideoFrames, _decoded

CLIPS = Path(os.environ.get("ROADBITS_DATA") or Path(__file__).parents[4] / "shared" / "data") / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no clips at {CLIPS}: set ROADBITS_DATA")
KINDS = pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mjpeg"), ("avi", "mpeg4"), ("mkv", "ffv1")]
)


def opened(path: Path, interval_s: float = 0.04, max_frames: int | None = None) -> VideoFrames:
    return VideoFrames(path, split="test", interval_s=interval_s, max_frames=max_frames)


def record(
    path: Path,
    codec: str = "ffv1",
    ticks: list[int] | None = None,
    planes: tuple[int, int, int] | None = None,
    size: tuple[int, int] = (48, 64),
    prepare: Callable[[VideoStream], None] = lambda stream: None,
) -> Path:
    """Write frames at ticks of 1/25 s: noise, growing with time from the left, or one colour (Y, Cb, Cr)."""
    height, width = size
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 10
        stream.codec_context.thread_count = 1
        prepare(stream)
        for k, tick in enumerate(ticks or range(50)):
            if planes is None:
                pixels = np.full((height, width, 3), 2 * k, np.uint8)
                pixels[:, : 4 + k] = rng.integers(0, 256, (height, 4 + k, 3), dtype=np.uint8)[:, :width]
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            else:
                shares = (height * width, height * width // 4, height * width // 4)
                flat = np.concatenate([np.full(n, v, np.uint8) for n, v in zip(shares, planes, strict=True)])
                frame = av.VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")
                frame.colorspace, frame.color_range = stream.codec_context.colorspace, stream.codec_context.color_range
            frame.pts, frame.time_base = tick, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def damage(path: Path, start: float, stop: float, fill: Callable[[int], bytes]) -> Path:
    content = path.read_bytes()
    first, last = int(start * len(content)), int(stop * len(content))
    path.write_bytes(content[:first] + fill(last - first) + content[last:])
    return path


def noise(count: int) -> bytes:
    return np.random.default_rng(1).bytes(count)


@KINDS
def test_every_frame_is_read_in_order(suffix: str, codec: str, tmp_path: Path) -> None:
    source = opened(record(tmp_path / f"drive.{suffix}", codec))
    frames = list(source)
    assert (len(source), len(frames), source.split, source.classes) == (50, 50, "test", CAMVID11)
    assert {(frame.camera, frame.domain, frame.label is None) for frame in frames} == {("drive", "day", True)}
    assert {(frame.image.dtype.name, frame.image.shape) for frame in frames} == {("uint8", (48, 64, 3))}
    assert [frame.index for frame in frames] == list(range(50))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(50) / 25)
    assert np.all(np.diff([frame.image[:, 60].mean() for frame in frames]) >= -40)


@KINDS
def test_a_file_read_twice_gives_the_same_frames(suffix: str, codec: str, tmp_path: Path) -> None:
    source = opened(record(tmp_path / f"drive.{suffix}", codec), 0.3)
    for first, second in zip(source, source, strict=True):
        np.testing.assert_array_equal(first.image, second.image)


def coded(**options: str) -> Callable[[VideoStream], None]:
    def prepare(stream: VideoStream) -> None:
        stream.codec_context.options = {name.replace("_", "-"): text for name, text in options.items()}

    return prepare


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "libx264", {}),
        ("avi", "mjpeg", {}),
        ("avi", "mpeg4", {}),
        ("mkv", "ffv1", {}),
        ("ts", "libx264", {}),
        ("mkv", "libx264", {"x264_params": "open-gop=1:bframes=3:keyint=10"}),
        ("mp4", "libx264", {"x264_params": "intra-refresh=1:keyint=10"}),
        ("mp4", "libx265", {"x265_params": "open-gop=1:bframes=3:keyint=10:log-level=none"}),
    ],
)
def test_reading_begins_anywhere_with_the_frames_of_the_whole(
    suffix: str, codec: str, options: dict[str, str], tmp_path: Path
) -> None:
    source = opened(record(tmp_path / f"drive.{suffix}", codec, prepare=coded(**options)), 0.12)
    whole = list(source)
    for first in range(len(whole) + 2):
        frames = list(source.starting_at(first))
        assert [(frame.index, frame.time_s) for frame in frames] == [(f.index, f.time_s) for f in whole[first:]]
        for frame, expected in zip(frames, whole[first:], strict=True):
            np.testing.assert_array_equal(frame.image, expected.image)


def test_reading_from_a_position_on_decodes_from_the_key_frame_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decoded = 0

    def counted(*of: Any) -> Iterator[Any]:
        nonlocal decoded
        for picture in _decoded(*of):
            decoded += 1
            yield picture

    monkeypatch.setattr(video, "_decoded", counted)
    source = opened(record(tmp_path / "drive.mp4", "libx264"))
    assert [frame.index for frame in source.starting_at(47)] == [47, 48, 49]
    assert decoded < 20  # of 50, every tenth a key frame


@pytest.mark.parametrize(
    ("interval_s", "expected"),
    [
        (0.001, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.04, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.08, [0, 2, 4, 6, 8]),
        (0.1, [0, 3, 5, 8]),
        (0.36, [0, 9]),
        (5.0, [0]),
    ],
)
def test_frames_are_taken_at_or_after_each_interval(interval_s: float, expected: list[int], tmp_path: Path) -> None:
    source = opened(record(tmp_path / "drive.mkv", ticks=list(range(10))), interval_s)
    assert [frame.time_s for frame in source] == pytest.approx([k / 25 for k in expected])
    assert len(source) == len(expected)


def test_times_come_from_the_file_and_not_from_counting(tmp_path: Path) -> None:
    source = opened(record(tmp_path / "drive.mkv", ticks=[50, 51, 60, 61, 62, 100, 101]), 0.2)
    assert [frame.time_s for frame in source] == pytest.approx([0.0, 0.4, 2.0])


@pytest.mark.parametrize("interval_s", [0.001, 0.04, 0.1])
def test_a_drive_ends_with_its_last_frame_even_where_the_file_is_slower_than_asked(
    interval_s: float, tmp_path: Path
) -> None:
    source = opened(record(tmp_path / "drive.mp4"), interval_s)
    assert source.last_time_s == list(source)[-1].time_s > 0


def test_a_clock_in_milliseconds_loses_no_frame(tmp_path: Path) -> None:
    # 30 frames per second: Matroska stores 0, 33, 67, 100 ms ...
    path = tmp_path / "drive.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for k in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((48, 32), 5 * k, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(opened(path, 1 / 30)) == 30


def test_max_frames_cuts_from_the_end(tmp_path: Path) -> None:
    source = opened(record(tmp_path / "drive.mkv"), 0.08, max_frames=3)
    assert [frame.time_s for frame in source] == pytest.approx([0, 0.08, 0.16])
    assert len(source) == 3


@pytest.mark.parametrize(
    ("matrix", "full_range", "planes", "expected"),
    [
        # Red, green and grey by the definitions of BT.601 (kr .299, kb .114) and BT.709 (kr .2126, kb .0722).
        (5, False, (81, 90, 240), (254, 0, 0)),
        (1, False, (63, 102, 240), (255, 1, 0)),
        (1, False, (173, 42, 26), (0, 255, 1)),
        (5, False, (145, 54, 34), (0, 255, 1)),
        (5, True, (76, 85, 255), (254, 0, 0)),
        (1, True, (182, 30, 12), (0, 255, 0)),
        (1, True, (100, 128, 128), (100, 100, 100)),
        (1, False, (126, 128, 128), (128, 128, 128)),
    ],
)
def test_the_stated_matrix_and_range_are_used(
    matrix: int, full_range: bool, planes: tuple[int, int, int], expected: tuple[int, int, int], tmp_path: Path
) -> None:
    def state(stream: VideoStream) -> None:
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full_range else 1

    path = record(tmp_path / "drive.mkv", ticks=[0, 1], planes=planes, prepare=state)
    assert np.abs(next(iter(opened(path))).image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("height", "expected"), [(718, (254, 0, 0)), (720, (255, 24, 0))])
def test_an_unstated_matrix_follows_the_height(height: int, expected: tuple[int, int, int], tmp_path: Path) -> None:
    path = record(tmp_path / "drive.mkv", ticks=[0], planes=(81, 90, 240), size=(height, 16))
    frame = next(iter(opened(path)))
    assert np.abs(frame.image.astype(int) - expected).max() <= 1


def test_an_unknown_matrix_is_refused(tmp_path: Path) -> None:
    def state(stream: VideoStream) -> None:
        stream.codec_context.colorspace = 8

    path = record(tmp_path / "drive.mkv", ticks=[0], planes=(81, 90, 240), prepare=state)
    with pytest.raises(DataError, match=r"drive\.mkv: states colour matrix 8 of H\.273"):
        list(opened(path))


@pytest.mark.skipif(not hasattr(VideoStream, "set_display_rotation"), reason="this PyAV cannot write a rotation")
def test_a_quarter_turn_is_applied(tmp_path: Path) -> None:
    path = record(tmp_path / "drive.mp4", "libx264", prepare=lambda stream: stream.set_display_rotation(90))
    frame = next(iter(opened(path)))
    plain = next(iter(opened(record(tmp_path / "plain.mp4", "libx264"))))
    np.testing.assert_array_equal(frame.image, np.rot90(plain.image))


def test_the_hidden_head_of_an_edit_list_gives_no_frames(tmp_path: Path) -> None:
    whole = record(tmp_path / "whole.mp4", "libx264")
    with (
        av.open(str(whole)) as given,
        av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as cut,
    ):
        stream = cut.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                shift = round(1 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                cut.mux(packet)
    source = opened(tmp_path / "cut.mp4")
    assert len(source) == len(list(source)) == 25


def test_a_file_is_open_only_while_iterating(tmp_path: Path) -> None:
    source = opened(record(tmp_path / "drive.mkv"))
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc on this system")
    count = len(list(descriptors.iterdir()))
    frames = iter(source)
    next(frames)
    assert len(list(descriptors.iterdir())) == count + 1
    del frames
    gc.collect()
    assert len(list(descriptors.iterdir())) == count


def test_a_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    source = opened(record(tmp_path / "drive.mkv"), 0.5)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert len(list(copy)) == 4


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.mp4: no such file; .*--set cameras\.paths="):
        opened(tmp_path / "absent.mp4")


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100, noise(5000)])
def test_an_unreadable_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(content)
    with pytest.raises(DataError, match=r"drive\.mp4: cannot be read as a video"):
        opened(tmp_path / "drive.mp4")


def test_sound_without_video_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(DataError, match=r"sound\.mkv: holds no video stream"):
        opened(tmp_path / "sound.mkv")


@KINDS
@pytest.mark.parametrize("keep", [0.4, 0.6])
def test_a_truncated_file_tells_the_time_reached(suffix: str, codec: str, keep: float, tmp_path: Path) -> None:
    path = damage(record(tmp_path / f"drive.{suffix}", codec), keep, 1, lambda count: b"")
    with pytest.raises(DataError, match=rf"drive\.{suffix}: (breaks off after|ends at) [01]\.\d+ s.*truncated\?"):
        opened(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_last_frame_that_is_shown_for_long_is_no_sign_of_truncation(suffix: str, tmp_path: Path) -> None:
    whole, path = record(tmp_path / f"whole.{suffix}", "libx264", list(range(9))), tmp_path / f"long.{suffix}"
    with av.open(str(whole)) as given, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(given.streams.video[0]) if packet.size]
        last = max(packets, key=lambda packet: packet.pts or 0)
        assert last.time_base is not None
        last.duration = int(2 / last.time_base)
        for packet in packets:
            packet.stream = stream
            written.mux(packet)
    assert len(opened(path)) == 9


def test_a_truncated_header_is_named(tmp_path: Path) -> None:
    path = damage(record(tmp_path / "drive.mp4", "libx264"), 0.01, 1, lambda count: b"")
    with pytest.raises(DataError, match=r"drive\.mp4: (cannot be read as a video|holds no video stream)"):
        opened(path)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("mkv", "mpeg4"), ("mp4", "mpeg4")])
def test_a_file_broken_in_the_middle_tells_the_time_reached(suffix: str, codec: str, tmp_path: Path) -> None:
    source = opened(damage(record(tmp_path / f"drive.{suffix}", codec), 0.5, 0.52, noise), 0.2)
    with pytest.raises(DataError, match=rf"drive\.{suffix}: (damaged picture|does not decode) after \d\.\d+ s"):
        list(source)


def test_sound_frames_come_before_the_damage(tmp_path: Path) -> None:
    source = opened(damage(record(tmp_path / "drive.mp4", "mpeg4"), 0.8, 0.85, noise))
    indices: list[int] = []
    with pytest.raises(DataError):
        indices.extend(frame.index for frame in source)
    assert 10 < len(indices) < 50


@pytest.mark.parametrize("interval_s", [0, -1, float("inf"), float("nan")])
def test_an_interval_out_of_range_is_refused(interval_s: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="interval_s must be a finite number greater than 0"):
        opened(tmp_path / "drive.mkv", interval_s)


def test_no_frame_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        opened(tmp_path / "drive.mkv", max_frames=0)


@needs_clips
@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [("solidWhiteRight", 221, (540, 960, 3)), ("vehicle_test_video", 38, (720, 1280, 3))],
)
def test_the_clips_are_read_whole(name: str, count: int, shape: tuple[int, int, int]) -> None:
    path = CLIPS / f"{name}.mp4"
    assert len(opened(path, 0.01)) == count
    frames = list(opened(path, 0.5))
    assert len(frames) == (count - 1) * 2 // 25 + 1
    assert {frame.image.shape for frame in frames} == {shape}
    assert [frame.time_s for frame in frames] == pytest.approx([-(-k * 25 // 2) / 25 for k in range(len(frames))])
