import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from roadbits.codecs.bitstream import CodecId, Container, pack
from roadbits.codecs.catalogue import LEGACY_CODECS, WEIGHTS, clip_codecs, codec_named, still_codecs
from roadbits.codecs.codec import ClipCodec, Codec, OperatingPoint
from roadbits.codecs.image import list_images, read_clip, read_image
from roadbits.codecs.legacy.clips import H264
from roadbits.codecs.metrics import bpp, psnr
from tests.fleet.command_line import HEIGHT, WIDTH, done, failed, picture, roadbits

CODECS = pytest.mark.parametrize("codec", LEGACY_CODECS, ids=lambda codec: codec.name)


pytestmark = pytest.mark.usefixtures("empty_folder")


@CODECS
def test_an_image_survives_encode_and_decode(codec: Codec) -> None:
    image, point = read_image(picture("in.png")), codec.points[-1]
    told = done("encode", "in.png", "p.rb", "--codec", codec.name, "--point", point)
    payload = Path("p.rb").read_bytes()
    assert payload == codec.encode(image, point)
    assert told == f"{codec.name} {point}: {len(payload)} bytes, {bpp(len(payload), HEIGHT, WIDTH):.4f} bpp\n"
    assert done("decode", "p.rb", "out.png") == f"{HEIGHT} x {WIDTH} pixels\n"
    decoded = read_image(Path("out.png"))
    np.testing.assert_array_equal(decoded, codec.decode(payload))
    assert psnr(decoded, image) > 25


@CODECS
def test_a_target_rate_is_come_near(codec: Codec) -> None:
    picture("in.png")
    done("encode", "in.png", "p.rb", "--codec", codec.name, "--bpp", "2.5")
    assert bpp(Path("p.rb").stat().st_size, HEIGHT, WIDTH) == pytest.approx(2.5, rel=0.1)


def test_without_point_or_rate_the_middle_of_the_ladder_is_taken() -> None:
    picture("in.png")
    assert done("encode", "in.png", "p.rb", "--codec", "jpeg").startswith("jpeg quality=50: ")


def test_a_clip_survives_encode_and_decode() -> None:
    for frame in (10, 9, 2):
        picture(f"drive/{frame}.png", seed=frame)
    told = done("encode", "drive", "p.rb", "--codec", "h264", "--point", "crf=23")
    payload = Path("p.rb").read_bytes()
    assert payload == H264.encode(read_clip([Path(f"drive/{k}.png") for k in (2, 9, 10)]), OperatingPoint.of(crf=23))
    assert told == f"h264 crf=23: {len(payload)} bytes, {bpp(len(payload), 3 * HEIGHT, WIDTH):.4f} bpp\n"
    assert done("decode", "p.rb", "out") == f"{HEIGHT} x {WIDTH} pixels, 3 frames\n"
    decoded = [read_image(path) for path in list_images(Path("out"))]
    np.testing.assert_array_equal(decoded, H264.decode(payload))
    assert "out: is not empty" in failed(2, "decode", "p.rb", "out")
    picture("drive/other/1.png")
    assert "drive and drive/other: a clip's frames must be in one folder" in failed(
        2, "encode", "drive", "p.rb", "--codec", "h264"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--codec", "jpeg", "--point", "quality=30", "--bpp", "1"), "give --point or --bpp, not both"),
        (("--codec", "jpg"), "no codec 'jpg': choose from jpeg, jpeg2000, webp, avif, hevc-intra, "),
        (("--codec", "jpeg", "--point", "quality=0"), "expected quality=N, N a whole number 1..100"),
        (("--codec", "jpeg", "--point", "best"), "'best' is not of the form knob=value"),
        (("--codec", "jpeg", "--bpp", "0"), "target rate is 0.0 bpp, expected more than 0 and finite"),
        (("--codec", "jpeg", "--bpp", "nan"), "expected more than 0 and finite"),
        ((), "Missing option '--codec'"),
    ],
)
def test_wrong_use_of_encode_writes_nothing(options: tuple[str, ...], expected: str) -> None:
    picture("in.png")
    assert expected in failed(2, "encode", "in.png", "p.rb", *options)
    assert not Path("p.rb").exists()


def test_what_is_encoded_or_decoded_is_not_overwritten() -> None:
    before = picture("in.png").read_bytes()
    Path("link.png").symlink_to("in.png")
    for target in ("in.png", "./in.png", "link.png"):
        told = failed(2, "encode", "in.png", target, "--codec", "jpeg")
        assert f"{Path(target)} would overwrite in.png, which it is made from: name another file" in told
    for codec in ("h264", "passthrough"):
        source = "in.png" if codec == "passthrough" else "drive"
        target = picture("drive/1.png") if source == "drive" else source
        assert "would overwrite" in failed(2, "encode", source, target, "--codec", codec)
    assert Path("drive/1.png").read_bytes() == Path("in.png").read_bytes() == before
    done("encode", "in.png", "p.png", "--codec", "jpeg")
    payload = Path("p.png").read_bytes()
    assert "p.png would overwrite p.png" in failed(2, "decode", "p.png", "p.png")
    assert Path("p.png").read_bytes() == payload
    done("encode", "in.png", "p.png", "--codec", "webp")
    assert Path("p.png").read_bytes() != payload, "another file is overwritten as before"


def test_a_photograph_that_was_taken_sideways_is_encoded_and_measured_upright() -> None:
    upright = read_image(picture("upright/0.png"))
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6  # to be turned by a quarter, clockwise
    Path("sideways").mkdir()
    PIL.Image.fromarray(np.rot90(upright)).save("sideways/0.png", exif=exif)
    assert read_image(Path("sideways/0.png")).shape == (WIDTH, HEIGHT, 3)
    for codec, own in (("jpeg", "0.png"), ("h264", ".")):
        payloads = []
        for folder in ("upright", "sideways"):
            done("encode", Path(folder) / own, "p.rb", "--codec", codec)
            payloads.append(Path("p.rb").read_bytes())
        assert payloads[0] == payloads[1]
    measured = []
    for folder in ("upright", "sideways"):
        done("rd", "--images", folder, "--codec", "jpeg", "--json", "rd.json")
        points = json.loads(Path("rd.json").read_text())["points"]
        measured.append([(point["bpp"], point["psnr_db"]) for point in points])
    assert measured[0] == measured[1]


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_what_is_no_image_is_not_encoded(content: bytes | None) -> None:
    if content is not None:
        Path("in.png").write_bytes(content)
    assert "roadbits: in.png: cannot be read as an image" in failed(2, "encode", "in.png", "p.rb", "--codec", "jpeg")
    assert not Path("p.rb").exists()


def truncated() -> bytes:
    done("encode", picture("in.png"), "whole.rb", "--codec", "webp")
    return Path("whole.rb").read_bytes()[:-1]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: b"", "payload is 0 bytes, shorter than any header: truncated?"),
        (lambda: b"garbage" * 20, "payload begins with b'ga', expected b'RB': not a roadbits payload"),
        (lambda: Path(picture("in.png")).read_bytes(), "not a roadbits payload"),
        (truncated, "truncated?"),
        (lambda: pack(Container(CodecId.JPEG, 9, 9, (30,), b"no jpeg")), "jpeg body does not decode"),
    ],
    ids=["empty", "garbage", "an image", "truncated", "a body that is no jpeg"],
)
def test_what_is_no_payload_is_not_decoded(make: object, expected: str) -> None:
    Path("p.rb").write_bytes(make())  # type: ignore[operator]
    message = failed(3, "decode", "p.rb", "out.png")
    assert message.startswith("roadbits: p.rb: ")
    assert expected in message
    assert not Path("out.png").exists()


def test_a_missing_payload_is_named() -> None:
    assert "'gone.rb'" in failed(2, "decode", "gone.rb", "out.png")


def test_a_lossy_format_is_no_place_for_a_decoded_image() -> None:
    done("encode", picture("in.png"), "p.rb", "--codec", "webp")
    assert "out.jpg: .jpg is no lossless format" in failed(2, "decode", "p.rb", "out.jpg")
    assert not Path("out.jpg").exists()


def test_every_codec_is_listed_with_its_points() -> None:
    stills, clips = done("codecs").split("\nof clips, for rd --clips, encode and decode:\n")
    *of_clips, last = clips.splitlines()
    assert last.split()[0] == "passthrough"
    listed(stills.splitlines()[1:], still_codecs())
    listed(of_clips[1:], clip_codecs())
    slimvc = of_clips[-1].split()
    assert slimvc[0] == "slimvc"
    assert re.fullmatch(r"[\d.]+ [\d.]+ [\d.]+ M [\d.]+ [0-9a-f]{12}", " ".join(slimvc[-6:]))


def listed(lines: Sequence[str], codecs: Sequence[Codec | ClipCodec]) -> None:
    assert [line.split()[0] for line in lines] == [codec.name for codec in codecs]
    for line, codec in zip(lines, codecs, strict=True):
        told = []
        for knob, _ in codec.points[0].settings:
            values = [point[knob] for point in codec.points]
            is_only_knob = len(codec.points[0].settings) == 1
            told += [knob, *(f"{value:g}" for value in (values if is_only_knob else sorted(set(values))))]
        assert line.split()[1 : 1 + len(told)] == told
        assert line.rstrip().endswith(codec.model_hash.hex())


def test_rd_prints_a_table_and_writes_what_others_read() -> None:
    for k in range(2):
        picture(f"images/deep/{k}.png", k)
    text = done("rd", "--images", "images", "--codec", "jpeg, webp", "--json", "rd.json")
    data = json.loads(Path("rd.json").read_text())
    arms = [("jpeg", str(p)) for p in LEGACY_CODECS[0].points] + [("webp", str(p)) for p in LEGACY_CODECS[2].points]
    assert [(row["codec"], row["point"]) for row in data["points"]] == arms
    for row in data["points"]:
        assert set(row) >= {"codec", "point", "images", "bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s"}
        assert row["images"] == 2
        assert all(row[name] > 0 for name in ("bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s"))
        cells = [f"{row['bpp']:.4f}", f"{row['psnr_db']:.2f}", f"{row['ms_ssim']:.4f}"]
        (line,) = [line for line in text.splitlines() if line.split()[:2] == [row["codec"], row["point"]]]
        assert line.split()[2:5] == cells
    rates = data["bd_rate_percent"]
    assert set(rates) == {"jpeg vs webp", "webp vs jpeg"}
    assert (1 + rates["jpeg vs webp"] / 100) * (1 + rates["webp vs jpeg"] / 100) == pytest.approx(1, rel=0.01)
    for rate in rates.values():
        assert f"{rate:+.1f}" in text


def test_rd_draws_neural_and_legacy_codecs_and_times_them() -> None:
    picture("images/0.png", 0)
    text = done("rd", "--images", "images", "--codec", "jpeg,cae", "--html", "rd.html", "--json", "rd.json", "--timing")
    page = Path("rd.html").read_text()
    assert "plotly" in page
    for codec in (codec_named("jpeg"), codec_named("cae")):
        assert all(str(point) in page for point in codec.points)
    timings = json.loads(Path("rd.json").read_text())["timings"]
    assert [(row["codec"], row["threads"]) for row in timings] == [("jpeg", 1), ("cae", 1), ("cae", 2)]
    for row in timings[1:]:
        for side in ("encode", "decode"):
            assert set(row[f"{side}_sections_s"]) == {"transform", "entropy", "container"}
            assert sum(row[f"{side}_sections_s"].values()) <= row[f"{side}_s"]
    assert "s/Mpx" in text


def test_rd_measures_as_many_images_as_it_is_told() -> None:
    for k in range(3):
        picture(f"images/{k}.png", k)
    done("rd", "--images", "images", "--codec", "jpeg", "--json", "rd.json", "--max-images", "2")
    data = json.loads(Path("rd.json").read_text())
    assert {row["images"] for row in data["points"]} == {2}
    assert data["bd_rate_percent"] == {}


def test_rd_measures_clips_beside_stills() -> None:
    for k in range(7):
        picture(f"drive/{k}.png", k)
    files = ("--json", "rd.json", "--html", "rd.html")
    text = done(
        "rd", "--clips", "drive", "--clip-frames", "3", "--codec", "h264,jpeg", "--perceptual", "--timing", *files
    )
    assert all(title in Path("rd.html").read_text() for title in ("flicker, grey levels", "PSNR over time", "distance"))
    rows = json.loads(Path("rd.json").read_text())["points"]
    assert [row["point"] for row in rows[:2]] == ["crf=43", "crf=39"]
    assert {row["codec"] for row in rows} == {"h264", "jpeg"}
    assert all(len(row["psnr_over_time"]) == 3 and row["flicker"] > 0 and row["distance"] > 0 for row in rows)
    assert {row["images"] for row in rows} == {6}  # the seventh frame fills no clip
    timings = json.loads(Path("rd.json").read_text())["timings"]
    assert [(row["codec"], row["threads"], row["decode_s"] > 0) for row in timings] == [
        ("h264", 1, True),
        ("jpeg", 1, True),
    ]
    assert "h264" in text


def test_rd_of_clips_and_stills_mixed_up_is_wrong_use() -> None:
    picture("drive/0.png", 0)
    assert "give --clips" in failed(2, "rd", "--images", "drive", "--codec", "h264")
    assert "one of them" in failed(2, "rd", "--codec", "jpeg")
    assert "one of them" in failed(2, "rd", "--images", "drive", "--clips", "drive", "--codec", "jpeg")
    PIL.Image.new("RGB", (40, 30)).save("drive/1.png")
    assert "of one size, got" in failed(2, "rd", "--clips", "drive", "--codec", "h264")
    assert "not --images" in failed(2, "rd", "--images", "drive", "--codec", "jpeg", "--clip-frames", "2")


def test_rd_without_images_or_codec_is_wrong_use() -> None:
    assert "gone: no such folder" in failed(2, "rd", "--images", "gone", "--codec", "jpeg")
    Path("empty").mkdir()
    assert "empty: holds no image" in failed(2, "rd", "--images", "empty", "--codec", "jpeg")
    picture("images/0.png")
    assert "no codec 'jpg'" in failed(2, "rd", "--images", "images", "--codec", "jpeg,jpg")


def test_bars_stay_off_stdout() -> None:
    picture("images/0.png")
    result = roadbits("rd", "--images", "images", "--codec", "jpeg")
    assert "measure" in result.stderr
    assert "measure" not in result.stdout


def test_a_rate_out_of_reach_is_told() -> None:
    picture("in.png")
    for target, end in ((0.001, "lowest"), (90, "highest")):
        result = roadbits("encode", "in.png", "p.rb", "--codec", "jpeg", "--bpp", target)
        assert result.exit_code == 0
        assert f"{target:g} bpp is out of reach of jpeg here: this is its {end} rate" in result.stderr
    assert "reach" not in roadbits("encode", "in.png", "p.rb", "--codec", "jpeg", "--bpp", 2).stderr


def test_weights_of_another_kind_of_codec_are_told_in_a_line() -> None:
    picture("in.png")
    message = failed(2, "encode", "in.png", "p.rb", "--codec", f"cae:{WEIGHTS / 'slimvc.safetensors'}")
    assert "got 'roadbits-temporal-1': are they of another kind of codec?" in message
    assert message.count("\n") == 4, "of which three are the usage"


def test_rd_tells_what_it_measures_and_which_image_does_not_suit_a_codec() -> None:
    for name in ("set/a/0.png", "set/a/1.png", "set/b/2.png"):
        picture(name)
    result = roadbits("rd", "--images", "set", "--codec", "jpeg", "--max-images", 2)
    assert result.exit_code == 0
    assert "measures 2 of 3 images in 2 folders" in result.stderr
    PIL.Image.fromarray(np.zeros((7, 3, 3), np.uint8)).save("set/b/tiny.png")
    assert "set/b/tiny.png: a codec cannot take it: codec cae wants sides" in failed(
        2, "rd", "--images", "set", "--codec", "cae"
    )
