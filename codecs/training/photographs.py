"""The photographs of the shipped weights' training: 33 to train on and 3 held out, from four packages of Debian.

    python -m roadbits.codecs.training.photographs DIR

fetches the packages with apt-get and writes DIR/train, DIR/held-out and DIR/ATTRIBUTION.txt. Files are copied as they
are; their numbers keep the order in which the recipes in `codecs/weights` were trained.

Chosen by eye: photographs without text, drawing or strong filters. Their licences (Creative Commons, GPL) are in the
attribution, which repeats the packages' own.

Not here: reduction of the photographs, and training itself (`crops`, `rate_distortion`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_LOMIRI_16, _LOMIRI_20 = "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04"
_MATE, _PLASMA = "mate-backgrounds", "plasma-workspace-wallpapers"
PACKAGES = (_LOMIRI_16, _LOMIRI_20, _MATE, _PLASMA)

Fetch = Callable[[str, Path], None]
"""Unpacks a package, given by name, below a folder."""


class PhotographsError(Exception):
    """Photographs that cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Photograph:
    """A file of a package.

    Attributes:
        package: of Debian.
        path: below the file system's root.
    """

    package: str
    path: PurePosixPath

    @property
    def name(self) -> str:
        """Return the title of the photograph and its suffix; Plasma names a folder by it, not the file."""
        parts = self.path.parts
        title = parts[parts.index("contents") - 1] if "contents" in parts else self.path.stem
        return f"{title}{self.path.suffix}"


def _of(package: str, *paths: str) -> tuple[Photograph, ...]:
    return tuple(Photograph(package, PurePosixPath("usr/share") / path) for path in paths)


TRAIN = (
    *_of(
        _LOMIRI_16,
        "backgrounds/Bridge_by_Sander_Klootwijk.jpg",
        "backgrounds/Dragonfly_by_Bolly.jpg",
        "backgrounds/Picture_0B_by_freespace.jpg",
        "backgrounds/Picture_1A_by_freespace.jpg",
        "backgrounds/Wine_by_Jakkub_Mede.jpg",
        "backgrounds/free_by_Peter_Nerlich.jpg",
        "backgrounds/friends_by_Aitzol_Berasategi.jpg",
        "backgrounds/greentock_by_Peter_Nerlich.jpg",
        "backgrounds/life_by_Aitzol_Berasategi.jpg",
        "backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "backgrounds/seeding_by_Clements_Engelhardt.jpg",
        "backgrounds/sunset_by_Aitzol_Berasategi.jpg",
    ),
    *_of(
        _MATE,
        "backgrounds/mate/nature/Aqua.jpg",
        "backgrounds/mate/nature/Blinds.jpg",
        "backgrounds/mate/nature/Dune.jpg",
        "backgrounds/mate/nature/FreshFlower.jpg",
        "backgrounds/mate/nature/Garden.jpg",
        "backgrounds/mate/nature/GreenMeadow.jpg",
        "backgrounds/mate/nature/LadyBird.jpg",
        "backgrounds/mate/nature/RainDrops.jpg",
        "backgrounds/mate/nature/Storm.jpg",
        "backgrounds/mate/nature/TwoWings.jpg",
        "backgrounds/mate/nature/Wood.jpg",
        "backgrounds/mate/nature/YellowFlower.jpg",
    ),
    *_of(
        _PLASMA,
        "wallpapers/BytheWater/contents/images/2560x1600.jpg",
        "wallpapers/ColdRipple/contents/images/2560x1600.jpg",
        "wallpapers/ColorfulCups/contents/images/2560x1600.jpg",
        "wallpapers/FallenLeaf/contents/images/2560x1600.jpg",
        "wallpapers/Grey/contents/images/2560x1600.jpg",
        "wallpapers/Kite/contents/images/2560x1600.jpg",
        "wallpapers/OneStandsOut/contents/images/2560x1600.jpg",
        "wallpapers/Path/contents/images/2560x1600.jpg",
        "wallpapers/Volna/contents/images/5120x2880.jpg",
    ),
)
HELD_OUT = (
    *_of(_LOMIRI_16, "backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg"),
    *_of(_LOMIRI_20, "backgrounds/Kleiber_by_Lukas_Baubkus.jpg"),
    *_of(_PLASMA, "wallpapers/EveningGlow/contents/images/2560x1600.jpg"),
)


def fetch_package(package: str, folder: Path) -> None:
    """Fetch a package and unpack it below a folder.

    Raises:
        PhotographsError: without apt-get or dpkg-deb, and if they fail.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise PhotographsError(f"{tool} is missing: run this on Debian or a relative of it")
    _run(folder, "apt-get", "download", package)
    (archive,) = folder.glob(f"{package}_*.deb")
    _run(folder, "dpkg-deb", "-x", archive.name, ".")
    archive.unlink()


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PhotographsError(f"{' '.join(command)} failed: {told} (apt-get update fetches the list of packages)")


def write_photographs(folder: Path, fetch: Fetch = fetch_package) -> None:
    """Write the photographs and their attribution.

    Raises:
        PhotographsError: if the folder holds some already, a package cannot be had, or lacks a file.
    """
    if any((folder / part).exists() for part in ("train", "held-out")):
        raise PhotographsError(f"{folder} holds photographs already: choose another folder, or remove it")
    with tempfile.TemporaryDirectory(prefix="roadbits-photographs-") as name:
        trees = Path(name)
        for package in PACKAGES:
            (trees / package).mkdir()
            fetch(package, trees / package)
        _check_complete(trees)
        for part, photographs in (("train", TRAIN), ("held-out", HELD_OUT)):
            (folder / part).mkdir(parents=True)
            for number, photograph in enumerate(photographs):
                source = trees / photograph.package / photograph.path
                shutil.copyfile(source, folder / part / f"{number:02d}-{photograph.name}")
        notices = [f"{package}\n\n{_copyright(trees, package).read_text('utf-8')}" for package in PACKAGES]
        (folder / "ATTRIBUTION.txt").write_text(f"\n{'=' * 80}\n\n".join(notices), "utf-8")


def _copyright(trees: Path, package: str) -> Path:
    return trees / package / "usr/share/doc" / package / "copyright"


def _check_complete(trees: Path) -> None:
    wanted = [trees / each.package / each.path for each in (*TRAIN, *HELD_OUT)]
    wanted += [_copyright(trees, package) for package in PACKAGES]
    missing = [str(path.relative_to(trees)) for path in wanted if not path.is_file()]
    if missing:
        raise PhotographsError(f"not in the packages, which may have changed since: {', '.join(missing)}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m roadbits.codecs.training.photographs", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    try:
        write_photographs(folder)
    except (PhotographsError, OSError) as error:
        raise SystemExit(f"photographs: {error}") from error
    sys.stdout.write(f"{len(TRAIN)} photographs in {folder / 'train'}, {len(HELD_OUT)} in {folder / 'held-out'}\n")


if __name__ == "__main__":
    main()
