"""The words of what a fleet drives through: generated streets, data sets, folders and videos.

Each may set frames apart that test vehicles bring home on disk: the server's reference frames, from which the restorers
of a run learn (that of kind `task` also from a segmenter that was trained on uploads).

Not here: opening what the words name (`sources`), the rest of a scenario (`scenario`).
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from roadbits.fleet.cameras.street import DOMAINS
from roadbits.fleet.parts import Count, Part, Seconds, Side, distinct


def _expanded(path: str) -> str:
    """Return an absolute path with `~` and `$VARIABLE` replaced; ROADBITS_DATA falls back to `../shared/data`.

    Absolute, since the workers of a cluster have folders of their own to begin in.
    """
    data = os.environ.get("ROADBITS_DATA") or str(Path("..") / "shared" / "data")
    text = path.replace("${ROADBITS_DATA}", data).replace("$ROADBITS_DATA", data)
    return str(Path(os.path.expandvars(text)).expanduser().absolute())


def _domain(name: str) -> str:
    if name not in DOMAINS:
        raise ValueError(f"no domain {name!r}: choose from {', '.join(DOMAINS)}")
    return name


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]
Domain = Annotated[str, AfterValidator(_domain)]


class StreetReference(Part):
    """Original frames that test vehicles bring home on disk, from streets of their own.

    Attributes:
        frames_per_vehicle: of each.
        vehicles: that bring some.
        domains: as for the fleet; the fleet's if left out.
    """

    frames_per_vehicle: Count
    vehicles: Count = 4
    domains: tuple[Domain, ...] | None = Field(None, strict=False)


class DataSetReference(Part):
    """Original frames that test vehicles bring home on disk, which the fleet then does not drive through.

    Attributes:
        frames: how many, evenly spaced.
        split: they are taken from; the fleet's if left out.
        drives: of these drives only, cities in Cityscapes; of all if left out.
    """

    frames: Count
    split: str | None = None
    drives: tuple[str, ...] = Field((), strict=False)


class FolderReference(Part):
    """Original frames that test vehicles bring home on disk, in a folder of their own.

    Attributes:
        images: the frames.
        masks: index PNGs of the same relative names, where they are labelled.
    """

    images: FilePath
    masks: FilePath | None = None


class StreetCameras(Part):
    """The generated street world.

    Attributes:
        domains: a vehicle's frames are divided over these in consecutive runs.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        frames_per_vehicle: captured by each vehicle.
        interval_s: between frames.
        test_frames: per test vehicle.
        test_vehicles: drive streets of their own.
        test_domains: of the test frames; those of training if left out.
        reference: originals of the server's own.
    """

    kind: Literal["street"]
    domains: tuple[Domain, ...] = Field(("day",), strict=False, min_length=1)
    height: int = Field(360, ge=64, le=4096)
    width: int = Field(480, ge=64, le=4096)
    frames_per_vehicle: Count
    interval_s: Seconds = 1.0
    test_frames: Count
    test_vehicles: Count = 4
    test_domains: tuple[Domain, ...] | None = Field(None, strict=False)
    reference: StreetReference | None = None


class DataSetCameras(Part):
    """Labelled frames on disk in a published layout, divided over the vehicles in contiguous blocks.

    Attributes:
        path: the data set's folder; `$ROADBITS_DATA` stands for that variable or `../shared/data`.
        interval_s: between frames of a vehicle.
        train: name of the split that the fleet drives through.
        test: name of the split that is measured on.
        size: height and width to resize to; the stored size if left out.
        max_frames: take at most that many frames of a split, evenly spaced among those that are not set apart.
        domains: every vehicle drives through a block of each of these in turn, and of no other; left out, through one
            block of the frames as they are stored.
        reference: originals of the server's own.
    """

    kind: Literal["camvid", "cityscapes", "kitti", "bdd100k"]
    path: FilePath
    interval_s: Seconds = 1.0
    train: str = "train"
    test: str = "val"
    size: tuple[Side, Side] | None = Field(None, strict=False)
    max_frames: Count | None = None
    domains: Annotated[tuple[str, ...], AfterValidator(distinct)] = Field((), strict=False)
    reference: DataSetReference | None = None


class FolderCameras(Part):
    """Any folders of images, with or without folders of masks.

    Attributes:
        images: the fleet's frames.
        masks: index PNGs of the same relative names; without them nothing can be trained.
        test_images: frames to measure on.
        test_masks: their masks.
        classes: label set of the masks.
        interval_s: between frames of a vehicle.
        size: height and width to resize to; the stored size if left out.
        max_frames: take at most that many of the fleet's and of the test frames, evenly spaced.
        domains: subfolders of these names in each folder of images; every vehicle drives through a block of each in
            turn. Left out, all frames are of one domain.
        reference: originals of the server's own.
    """

    kind: Literal["folder"]
    images: FilePath
    masks: FilePath | None = None
    test_images: FilePath | None = None
    test_masks: FilePath | None = None
    classes: Literal["camvid11", "cityscapes19"] = "camvid11"
    interval_s: Seconds = 1.0
    size: tuple[Side, Side] | None = Field(None, strict=False)
    max_frames: Count | None = None
    domains: Annotated[tuple[str, ...], AfterValidator(distinct)] = Field((), strict=False)
    reference: FolderReference | None = None


class VideoCameras(Part):
    """Video files, one drive each; vehicle v drives through file v modulo their number.

    Attributes:
        paths: the files.
        interval_s: between frames taken.
        max_frames: per file.
    """

    kind: Literal["video"]
    paths: tuple[FilePath, ...] = Field(strict=False, min_length=1)
    interval_s: Seconds = 1.0
    max_frames: Count | None = None


Cameras = Annotated[StreetCameras | DataSetCameras | FolderCameras | VideoCameras, Field(discriminator="kind")]


def why_one_domain(cameras: Cameras) -> str:
    """Return why all that a fleet drives through is of one domain, and what to do; empty if there may be several."""
    match cameras:
        case VideoCameras():
            return "a video is one drive in one domain: extract frames into folders, and read those with kind folder"
        case DataSetCameras(kind="kitti" | "bdd100k" as kind):
            return (
                f"nothing tells the domains of {kind}: sort its frames, and masks of train ids, into subfolders, and "
                "read those with kind folder and cameras.domains"
            )
        case FolderCameras(domains=domains) if len(domains) < 2:
            return (
                "frames of a folder are of one domain: sort them into two or more subfolders of cameras.images, and of "
                "cameras.test_images alike, and name those in cameras.domains"
            )
        case StreetCameras(domains=domains) if len(set(domains)) < 2:
            return f"cameras.domains names {domains[0]} alone: name two or more, as in [day, dusk]"
        case DataSetCameras(domains=(only,)):
            return f"cameras.domains names {only} alone: name two or more"
        case _:
            return ""
