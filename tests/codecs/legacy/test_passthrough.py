from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from roadbits.codecs.bitstream import BitstreamError, pack, unpack
from roadbits.codecs.catalogue import clip_codec_of, decode, decode_clip, is_clip
from roadbits.codecs.image import list_images, read_image
from roadbits.codecs.legacy.passthrough import VideoFileError, decoded, passed_through
from roadbits.codecs.metrics import psnr
from roadbits.fleet.cameras.video import VideoFrames
from roadbits.fleet.cli import cli

FRAMES, HEIGHT, WIDTH = 6, 80, 112


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 256, (10, 24, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return [coarse[:HEIGHT, 2 * k : 2 * k + WIDTH] for k in range(FRAMES)]


def video(path: Path, encoder: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=Fraction(10), options={"crf": "12", "g": "3", **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in images():
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_camera_s_stream_passes_unchanged(encoder: str, suffix: str, tmp_path: Path) -> None:
    path = video(tmp_path / f"drive.{suffix}", encoder)
    payload = passed_through(path)
    clip = decode_clip(payload)
    frames = VideoFrames(path, split="train", interval_s=0.1)
    np.testing.assert_array_equal(clip, [frame.image for frame in frames])
    assert psnr(clip[0], images()[0]) > 20
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0)]
    assert sum(sizes) <= len(payload) < sum(sizes) + 6000  # parameter sets at key frames


def test_a_payload_is_a_clip_and_no_encoded_one(tmp_path: Path) -> None:
    payload = passed_through(video(tmp_path / "drive.mp4"))
    assert is_clip(payload)
    with pytest.raises(BitstreamError, match="a clip of passthrough, expected a still"):
        decode(payload)
    with pytest.raises(BitstreamError, match="of passthrough, expected an encoded clip"):
        clip_codec_of(payload)


def test_damage_is_told_at_every_length(tmp_path: Path) -> None:
    payload = passed_through(video(tmp_path / "drive.mp4"))
    for cut in range(0, len(payload), len(payload) // 50):
        with pytest.raises(BitstreamError):
            decode_clip(payload[:cut])


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
def test_damage_that_is_signed_again_is_told_or_gives_a_clip_of_its_size(encoder: str, tmp_path: Path) -> None:
    """The checksum aside: what FFmpeg makes of damage is not to be known, but never anything else."""
    options = {"x265-params": "log-level=none"} if encoder == "libx265" else {}
    container = unpack(passed_through(video(tmp_path / "drive.mp4", encoder, **options)))
    rng, body, told = np.random.default_rng(0), container.body, 0
    cut = [body[: len(body) * k // 8] for k in range(8)]
    flipped = []
    for k in range(8):
        damaged = bytearray(body)
        for at in rng.integers(len(body), size=1 + 4 * k):
            damaged[at] ^= 1 << int(rng.integers(8))
        flipped.append(bytes(damaged))
    for each in (*cut, *flipped):
        try:
            clip = decoded(pack(replace(container, body=each)))
        except BitstreamError:
            told += 1
            continue
        assert (clip.shape, clip.dtype) == ((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    assert told >= len(cut) // 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point": (FRAMES + 1, 0)}, "does not hold the 7 frames"),
        ({"point": (FRAMES - 1, 0)}, "does not hold the 5 frames"),
        ({"point": (0, 0)}, "claims 0 frames"),
        ({"point": (FRAMES, 9)}, "in stream 9"),
        ({"point": (65535, 0), "height": 8000, "width": 8000}, "claims"),
        ({"height": HEIGHT + 2}, "holds a frame of 80 x 112, its header says 82 x 112"),
        ({"body": b""}, "does not hold"),
        ({"body": bytes(range(256)) * 40}, "stream does"),
    ],
)
def test_lies_of_a_header_are_found_out(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    container = unpack(passed_through(video(tmp_path / "drive.mp4")))
    with pytest.raises(BitstreamError, match=message):
        decoded(pack(replace(container, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("encoder", "options"), [("libx264", "open-gop=1"), ("libx265", "open-gop=1:log-level=none")])
def test_a_recording_that_begins_in_the_middle_is_worth_what_decodes(
    encoder: str, options: str, tmp_path: Path
) -> None:
    """A loop recorder's file begins at a key frame of an open group, before frames that lean on what is gone."""
    whole, cut = tmp_path / "whole.ts", tmp_path / "cut.ts"
    shaken = np.random.default_rng(0).integers(0, 256, (FRAMES * 5, 1, 1, 3), np.uint8)
    params = {encoder[3:] + "-params": f"keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0:{options}"}
    with av.open(str(whole), "w") as out:
        stream = out.add_stream(encoder, rate=10, options=params)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in (*np.broadcast_to(shaken, (FRAMES * 5, HEIGHT, WIDTH, 3)), None):
            frame = None if picture is None else av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            out.mux(stream.encode(frame))
    with av.open(str(whole)) as file, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(file.streams.video[0])
        keys = 0
        for packet in file.demux(video=0):
            keys += packet.is_keyframe and packet.size > 0
            if keys > 1 and packet.size:
                packet.stream = stream
                out.mux(packet)
    with av.open(str(cut)) as file:
        packets = sum(1 for packet in file.demux(video=0) if packet.size)
    payload = passed_through(cut)
    assert 10 < unpack(payload).point[0] < packets
    assert len(decode_clip(payload)) == unpack(payload).point[0]


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"no video"), "cannot be read as a video"),
        (cut_in_half, "cannot be read as a video|truncated"),
        (lambda path: video(path, "mpeg4", crf="20") and None, "its stream is mpeg4, expected h264 or hevc"),
    ],
)
def test_what_cannot_be_passed_is_told(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = video(tmp_path / "drive.mp4")
    spoil(path)
    with pytest.raises(VideoFileError, match=message):
        passed_through(path)


def test_the_command_line_passes_and_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    video(Path("drive.mp4"))
    run = CliRunner()
    told = run.invoke(cli, ["encode", "drive.mp4", "p.rb", "--codec", "passthrough"], prog_name="roadbits")
    assert told.exit_code == 0, told.output
    payload = Path("p.rb").read_bytes()
    assert told.stdout == (
        f"passthrough: 6 frames, {len(payload)} bytes, {8 * len(payload) / (FRAMES * HEIGHT * WIDTH):.4f} bpp\n"
    )
    assert run.invoke(cli, ["decode", "p.rb", "out"], prog_name="roadbits").exit_code == 0
    np.testing.assert_array_equal([read_image(path) for path in list_images(Path("out"))], decode_clip(payload))
    wrong = run.invoke(cli, ["encode", "gone.mp4", "p.rb", "--codec", "passthrough"], prog_name="roadbits")
    assert (wrong.exit_code, "gone.mp4: no such file" in wrong.stderr) == (2, True)
    wrong = run.invoke(
        cli, ["encode", "drive.mp4", "p.rb", "--codec", "passthrough", "--bpp", "1"], prog_name="roadbits"
    )
    assert (wrong.exit_code, "encodes nothing" in wrong.stderr) == (2, True)
