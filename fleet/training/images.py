"""The images and clips of a training: each source is rendered or reduced once and kept in a cache beside the training.

A cache's name is the hash of exactly what it depends on: the source's words and its files, or this program's version
for the generated street.

Not here: crops (`codecs.training.crops`), the training (`run`).
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, assert_never

import numpy as np

from roadbits.codecs.codec import Image
from roadbits.codecs.image import list_images, read_photograph
from roadbits.codecs.training.clips import moving_clip
from roadbits.codecs.training.crops import ImageCache, TrainingDataError, reduced
from roadbits.fleet.cameras.street import DOMAINS, StreetSource
from roadbits.fleet.progress import Bar, Display
from roadbits.fleet.stages import stage_key
from roadbits.fleet.training.clip_config import MovingPhotographs, StreetClips
from roadbits.fleet.training.folder import CACHES, own_files
from roadbits.fleet.training.still_config import FolderImages, StreetImages

Source = FolderImages | StreetImages | StreetClips | MovingPhotographs


def cache_name(images: Source) -> str:
    """Return the file name of a source's cache.

    Raises:
        ImageFileError: if a folder is missing or holds no image.
    """
    return stage_key(images.kind, words=images.model_dump(mode="json"), made_of=_ingredients(images)) + ".bin"


def check_sources(train_on: Sequence[Source], validate_on: Sequence[Source]) -> None:
    """Refuse sources that cannot be used, before anything is written.

    Raises:
        ImageFileError: if a folder is missing or holds no image.
        TrainingDataError: if something is both trained on and held out.
    """
    both = set().union(*map(_origins, train_on)) & set().union(*map(_origins, validate_on))
    if both:
        raise TrainingDataError(
            f"{min(both)} is both trained on and held out, so that it measures nothing: hold other images out"
        )


def _origins(images: Source) -> set[str]:
    """Return where each image comes from, whatever is made of it.

    Raises:
        ImageFileError: if a folder is missing or holds no image.
    """
    match images:
        case FolderImages() | MovingPhotographs():
            return {str(path.resolve()) for path in list_images(Path(images.path))}
        case StreetImages() | StreetClips():
            drives = range(images.first_drive, images.first_drive + images.drives)
            return {f"drive {drive} of the street of seed {images.seed}" for drive in drives}
        case _:
            assert_never(images)


def _ingredients(images: Source) -> Any:
    match images:
        case FolderImages() | MovingPhotographs():
            files = [(path, path.stat()) for path in list_images(Path(images.path))]
            return [[str(path), found.st_size, found.st_mtime_ns] for path, found in files]
        case StreetImages() | StreetClips():
            return version("roadbits")
        case _:
            assert_never(images)


def open_cache(images: Source, folder: Path, display: Display) -> ImageCache:
    """Open a source's cache in a folder, made first if it is not there.

    Raises:
        ImageFileError: if an image cannot be read.
        TrainingDataError: if no image is large enough, or the cache is damaged.
        DataError: if the street cannot be rendered.
    """
    path = folder / cache_name(images)
    if not path.exists():
        match images:
            case FolderImages():
                files = list_images(Path(images.path))
                with display.bar("photographs", len(files)) as bar:
                    ImageCache.write(path, _reduced(images, files, bar))
            case StreetImages() | StreetClips():
                with display.bar("street", images.drives * images.frames) as bar:
                    ImageCache.write(path, _rendered(images, bar))
            case MovingPhotographs():
                with display.bar("moving photographs", images.clips) as bar:
                    ImageCache.write(path, _moving(images, bar))
            case _:
                assert_never(images)
    return ImageCache.open(path)


def remove_other_caches(folder: Path, used: Sequence[Source]) -> None:
    """Remove the caches that belong to none of these sources."""
    names = {cache_name(images) for images in used}
    for path in own_files(folder, CACHES):
        if path.name not in names:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink()


def _reduced(images: FolderImages, files: Sequence[Path], bar: Bar) -> Iterator[Image]:
    found = 0
    for path in files:
        for image in reduced(read_photograph(path), images.factors, images.min_side):
            found += 1
            yield image
        bar.advance()
    if not found:
        raise TrainingDataError(
            f"{images.path}: none of its {len(files)} images, divided by {images.factors}, has a shorter side of "
            f"{images.min_side} pixels: choose smaller factors or a smaller min_side"
        )


def _moving(words: MovingPhotographs, bar: Bar) -> Iterator[Image]:
    photographs = [
        photograph
        for path in list_images(Path(words.path))
        for photograph in reduced(read_photograph(path), words.factors, words.side)
    ]
    if not photographs:
        raise TrainingDataError(
            f"{words.path}: none of its images, divided by {words.factors}, has a shorter side of {words.side} pixels: "
            "choose smaller factors or a smaller side"
        )
    for number in range(words.clips):
        rng = np.random.default_rng((words.seed, number))
        yield from moving_clip(photographs[int(rng.integers(len(photographs)))], words.frames, words.side, rng)
        bar.advance()


def _rendered(images: StreetImages | StreetClips, bar: Bar) -> Iterator[Image]:
    intervals_s = images.intervals_s if isinstance(images, StreetClips) else (images.interval_s,)
    for drive in range(images.first_drive, images.first_drive + images.drives):
        height, width = images.sizes[drive % len(images.sizes)]
        source = StreetSource(
            seed=images.seed,
            split="train",
            vehicle=drive,
            domains=(DOMAINS[drive % len(DOMAINS)],),
            num_frames=images.frames,
            interval_s=intervals_s[drive // len(images.sizes) % len(intervals_s)],
            height=height,
            width=width,
        )
        for frame in source:
            yield frame.image
            bar.advance()
