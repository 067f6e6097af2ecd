import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadbits.codecs.codec import Image
from roadbits.codecs.image import (
    ImageFileError,
    clips_of,
    list_images,
    natural_order,
    read_clip,
    read_image,
    read_photograph,
    write_image,
)

Maker = Callable[..., Image]


def png_claiming(height: int, width: int) -> bytes:
    """Return a PNG of one pixel whose header claims more, with a checksum that fits."""
    stream = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(stream, "PNG")
    data = stream.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp", ".tif", ".tiff", ".PNG"])
def test_a_written_image_is_read_back_exactly(suffix: str, tmp_path: Path, textured: Maker) -> None:
    image = textured(17, 33)
    path = tmp_path / f"frame{suffix}"
    write_image(path, image)
    read = read_image(path)
    assert read.dtype == np.uint8
    assert np.array_equal(read, image)


def test_a_read_image_may_be_written_to(tmp_path: Path, textured: Maker) -> None:
    write_image(tmp_path / "frame.png", textured(4, 5))
    read = read_image(tmp_path / "frame.png")
    read[0, 0] = 7
    assert (read[0, 0] == 7).all()


TURNED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How an upright image is stored under each orientation."""


def exif_of(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation], exif[PIL.ExifTags.Base.Make] = orientation, "maker"
    return exif


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_a_photograph_is_turned_upright_and_an_image_left_as_it_is_stored(
    orientation: int, file_format: str, tmp_path: Path, textured: Maker
) -> None:
    upright = textured(17, 33)
    stored, path = np.ascontiguousarray(TURNED[orientation](upright)), tmp_path / "photograph"
    PIL.Image.fromarray(stored).save(path, file_format, exif=exif_of(orientation), lossless=True)
    assert np.array_equal(read_photograph(path), upright)
    assert np.array_equal(read_image(path), stored)
    assert np.array_equal(read_clip([path, path]), np.stack([upright] * 2))
    read_photograph(path)[0, 0] = 7


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_photograph_of_damaged_exif_is_still_read(file_format: str, tmp_path: Path, textured: Maker) -> None:
    stream, exif = io.BytesIO(), exif_of(6).tobytes()
    PIL.Image.fromarray(textured(17, 33)).save(stream, file_format, exif=exif)
    at, path = stream.getvalue().index(exif[6:]), tmp_path / "damaged.img"
    generator = random.Random(file_format)
    for _ in range(300):
        data = bytearray(stream.getvalue())
        for _ in range(generator.randint(1, 4)):
            data[at + generator.randrange(len(exif) - 6)] ^= 1 << generator.randrange(8)
        if file_format == "PNG":  # whose chunks have checksums of their own
            begin = data.index(b"eXIf")
            (length,) = struct.unpack(">I", data[begin - 4 : begin])
            checksum = zlib.crc32(data[begin : begin + 4 + length])
            data[begin + 4 + length : begin + 8 + length] = struct.pack(">I", checksum)
        path.write_bytes(data)
        assert read_photograph(path).shape in ((17, 33, 3), (33, 17, 3))


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, 2))


def test_an_alpha_channel_is_dropped_and_colours_stay(tmp_path: Path, textured: Maker) -> None:
    image = textured(4, 5)
    alpha = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
    PIL.Image.fromarray(np.concatenate([image, alpha], 2)).save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), image)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[0], image[1] = (200, 10, 30), (4, 90, 250)
    PIL.Image.fromarray(image).quantize(2).save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), image)


def test_sixteen_bits_of_grey_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    deep = (3000 * np.arange(20, dtype=np.uint16)).reshape(4, 5)
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.raises(ImageFileError, match=r"deep\.png: pixels are of Pillow's mode I;16, expected 8 bits"):
        read_image(tmp_path / "deep.png")


def test_a_missing_file_a_folder_and_a_text_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("absent.png", "text.png", "empty.png", "."):
        path = tmp_path / name
        with pytest.raises(ImageFileError, match="cannot be read as an image") as caught:
            read_image(path)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_truncated_image_is_refused(file_format: str, tmp_path: Path, textured: Maker) -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(textured(64, 48)).save(stream, file_format)
    path = tmp_path / "half.img"
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    with pytest.raises(ImageFileError):
        read_image(path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "PPM", "AVIF"])
def test_a_damaged_image_is_read_or_refused(file_format: str, tmp_path: Path, textured: Maker) -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(textured(17, 33)).save(stream, file_format)
    generator = random.Random(file_format)
    path = tmp_path / "damaged.img"
    for _ in range(300):
        data = bytearray(stream.getvalue())
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            image = read_image(path)
        except ImageFileError:
            continue
        assert (image.ndim, image.dtype) == (3, np.uint8)


@pytest.mark.parametrize(("height", "width"), [(9000, 9000), (12_000, 12_000), (100_000, 100_000)])
def test_more_pixels_than_a_payload_may_have_are_refused(height: int, width: int, tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(png_claiming(height, width))
    with pytest.raises(ImageFileError, match="pixels"):
        read_image(tmp_path / "huge.png")


@pytest.mark.parametrize("name", ["frame.jpg", "frame.webp", "frame", "frame.png.avif"])
def test_a_format_with_losses_is_refused_for_writing(name: str, tmp_path: Path, textured: Maker) -> None:
    with pytest.raises(ImageFileError, match=r"is no lossless format, expected \.png"):
        write_image(tmp_path / name, textured(4, 5))
    assert not (tmp_path / name).exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, textured: Maker) -> None:
    with pytest.raises(ImageFileError, match=r"absent/frame\.png: cannot be written"):
        write_image(tmp_path / "absent" / "frame.png", textured(4, 5))


def test_clips_take_frames_by_their_numbers_and_folders_apart(tmp_path: Path) -> None:
    names = ["a.png", *(f"frame{k}.png" for k in range(1, 13)), "b/frame2.png", "b/frame10.png"]
    clips = clips_of([tmp_path / name for name in names], 4)
    told = [[str(file.relative_to(tmp_path)) for file in clip] for clip in clips]
    assert told[0] == ["a.png", "frame1.png", "frame2.png", "frame3.png"]
    assert told[2] == ["frame8.png", "frame9.png", "frame10.png", "frame11.png"]
    assert told[3:] == [["b/frame2.png", "b/frame10.png"]]


@given(st.lists(st.lists(st.tuples(st.text("ab-/_.: ", min_size=1, max_size=3), st.integers(0, 999)), max_size=4)))
def test_numbers_padded_to_one_length_leave_the_order_of_text(parts: list[list[tuple[str, int]]]) -> None:
    names = ["".join(f"{text}{number:03}" for text, number in name) for name in parts]
    assert sorted(names, key=natural_order) == sorted(names)


def test_numbers_count_as_numbers_in_folders_too_and_folders_stay_apart(tmp_path: Path) -> None:
    names = ["1/a2", "1/a10", "01/a1", "01/a3", "drive_10/0", "drive_2/0", "drive_2/00", "x1b", "x12"]
    expected = ["01/a1", "01/a3", "1/a2", "1/a10", "drive_2/0", "drive_2/00", "drive_10/0", "x1b", "x12"]
    assert sorted(names, key=natural_order) == expected
    for name in names:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [path.relative_to(tmp_path).with_suffix("").as_posix() for path in list_images(tmp_path)] == expected


def test_a_clip_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", np.zeros((512, 1024, 3), np.uint8))
    with pytest.raises(ImageFileError, match="take shorter clips"):
        read_clip([tmp_path / "0.png"] * 1025)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """A Mac writes `._0.png` beside `0.png` on other disks: no picture, in spite of its name."""
    for name in ("0.png", "._0.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["0.png"]
