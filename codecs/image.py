"""Images in files: read any still that Pillow knows as uint8 (H, W, 3) RGB, several as a clip; write losslessly.

Not here: label maps and data set layouts, video files (`roadbits.fleet.cameras`).
"""

import itertools
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from roadbits.codecs.bitstream import MAX_PIXELS
from roadbits.codecs.codec import MAX_CLIP_PIXELS, Clip, Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".ppm", ".bmp", ".tif", ".tiff")


class ImageFileError(Exception):
    """A file that holds no readable image; the message names it."""


def read_image(path: Path) -> Image:
    """Return the image uint8 (H, W, 3) in a file; an alpha channel is dropped, grey becomes three channels.

    Rows and columns are as they are stored, whatever EXIF says of how to turn them: a label map beside the image counts
    the same. A photograph of which nothing but itself is known is for `read_photograph`.

    Raises:
        ImageFileError: if the file is missing, truncated, no image, has more than `MAX_PIXELS` pixels or more than 8
            bits of grey, which Pillow would clip to white.
    """
    return _read(path, upright=False)


def read_photograph(path: Path) -> Image:
    """Return the image in a file as `read_image` does, but turned upright as its EXIF orientation says.

    Raises:
        ImageFileError: as `read_image` does.
    """
    return _read(path, upright=True)


def _read(path: Path, upright: bool) -> Image:
    try:
        with warnings.catch_warnings(), _opened(path) as picture:
            if picture.size[0] * picture.size[1] > MAX_PIXELS:
                raise ImageFileError(f"{path}: {picture.size[1]} x {picture.size[0]} pixels, at most {MAX_PIXELS}")
            if picture.mode.startswith(("I", "F")):
                raise ImageFileError(f"{path}: pixels are of Pillow's mode {picture.mode}, expected 8 bits per channel")
            rgb = picture.convert("RGB")
            return np.array(_upright(rgb, picture) if upright else rgb)
    except (OSError, SyntaxError, ValueError, RuntimeError, PIL.Image.DecompressionBombError) as error:
        raise ImageFileError(f"{path}: cannot be read as an image: {error}") from error


def _upright(rgb: PIL.Image.Image, picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a picture's pixels turned as its EXIF orientation says; EXIF that cannot be read says nothing."""
    try:
        orientation = picture.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except SyntaxError:
        return rgb
    # Alone, without the rest of the EXIF, which Pillow would write anew and stumble over where it is damaged.
    bare = PIL.Image.fromarray(np.asarray(rgb))
    bare.getexif()[PIL.ExifTags.Base.Orientation] = orientation
    return PIL.ImageOps.exif_transpose(bare)


def _opened(path: Path) -> PIL.Image.Image:
    """Open a file without Pillow's own warnings: of large pictures, before any check of ours, and of damaged EXIF."""
    for warning in (PIL.Image.DecompressionBombWarning, UserWarning):
        warnings.simplefilter("ignore", warning)
    return PIL.Image.open(path)


def write_image(path: Path, image: Image) -> None:
    """Write an image uint8 (H, W, 3) losslessly, in the format of the file's suffix.

    Raises:
        ImageFileError: if the suffix names no lossless format or the file cannot be written.
    """
    if path.suffix.lower() not in (".png", ".ppm", ".bmp", ".tif", ".tiff"):
        raise ImageFileError(f"{path}: {path.suffix or 'no suffix'} is no lossless format, expected .png, .ppm or .bmp")
    try:
        PIL.Image.fromarray(image).save(path)
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be written: {error}") from error


def write_clip(folder: Path, clip: Clip) -> None:
    """Write the frames of a clip as PNG files, 00000.png and so on, into a new or empty folder.

    Raises:
        ImageFileError: if the folder holds something, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ImageFileError(f"{folder}: is not empty")
    except OSError as error:
        raise ImageFileError(f"{folder}: cannot be written: {error}") from error
    for index, image in enumerate(clip):
        write_image(folder / f"{index:05}.png", image)


def list_images(folder: Path) -> list[Path]:
    """Return the image files below a folder in `natural_order`; hidden ones aside, and links to folders not followed.

    Raises:
        ImageFileError: if there is no such folder or no image in it.
    """
    if not folder.is_dir():
        what = "is a file, expected a folder of images" if folder.exists() else "no such folder"
        raise ImageFileError(f"{folder}: {what}")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not found:
        raise ImageFileError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(found, key=_parts_in_order)


def clips_of(files: Sequence[Path], frames: int) -> list[list[Path]]:
    """Cut frames into clips of so many, or one shorter clip if there are fewer; a shorter rest is left out.

    Frames of different folders never share a clip; they are taken in `natural_order`.
    """
    clips = []
    ordered = sorted(files, key=lambda file: (_parts_in_order(file.parent), natural_order(file.name)))
    for _, group in itertools.groupby(ordered, key=lambda file: file.parent):
        mine = list(group)
        whole = len(mine) // frames * frames
        clips += [mine[first : first + frames] for first in range(0, whole, frames)] or [mine]
    return clips


def one_clip(files: Sequence[Path]) -> list[Path]:
    """Return all frames in order as one clip.

    Raises:
        ImageFileError: if they are in several folders.
    """
    clips = clips_of(files, len(files))
    if len(clips) != 1:
        raise ImageFileError(f"{clips[0][0].parent} and {clips[1][0].parent}: a clip's frames must be in one folder")
    return clips[0]


def read_clip(files: Sequence[Path]) -> Clip:
    """Return the clip uint8 (T, H, W, 3) of consecutive frames, each as `read_photograph` gives it.

    Raises:
        ImageFileError: if one cannot be read, or is of another size than the first, or the clip is too large.
    """
    first = read_photograph(files[0])
    height, width = first.shape[:2]
    if len(files) * height * width > MAX_CLIP_PIXELS:
        raise ImageFileError(
            f"{files[0].parent}: a clip of {len(files)} frames of {height} x {width} pixels, at most {MAX_CLIP_PIXELS} "
            "pixels in all: take shorter clips"
        )
    clip = np.empty((len(files), *first.shape), np.uint8)
    clip[0] = first
    for index, file in enumerate(files[1:], 1):
        image = read_photograph(file)
        if image.shape != first.shape:
            sizes = f"{height} x {width} and {image.shape[0]} x {image.shape[1]}"
            raise ImageFileError(f"{file}: a clip's frames must be of one size, got {sizes} pixels")
        clip[index] = image
    return clip


def natural_order(name: str) -> str:
    """Return a key that sorts names by the numbers in them: frame 2 comes before frame 10.

    Names whose numbers are padded with zeros to one length are sorted as text is.
    """
    return re.sub("[0-9]+", _by_length, name)


def _by_length(number: re.Match[str]) -> str:
    """Return digits that text sorts by their value, and not alike where they differ: folders 01 and 1 stay apart."""
    significant = number[0].lstrip("0")
    return f"{len(significant):03}{significant}{number[0]}"


def _parts_in_order(path: Path) -> list[str]:
    return [natural_order(part) for part in path.parts]
