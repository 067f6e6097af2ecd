from pathlib import Path

import pytest

from roadbits.fleet.training.clip_config import MovingPhotographs, StreetClips
from roadbits.fleet.training.folder import CACHES, own_files, own_folder
from roadbits.fleet.training.images import Source, cache_name
from roadbits.fleet.training.still_config import FolderImages, StreetImages
from tests.fleet.training.recipes import pictures

STREET = {"kind": "street", "seed": 1, "drives": 1, "sizes": [[64, 64]]}
HEX = "0123456789abcdef"


def written(names: list[str]) -> list[Path]:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("content")
    return [Path(name) for name in names]


def test_what_a_killed_training_left_half_written_is_removed_and_nothing_else() -> None:
    left = written(
        [
            "out/checkpoint.99.tmp",
            "out/model.7.tmp",
            *(f"out/cache/{kind}-{HEX}.4.tmp" for kind in ("folder", "street", "moving-photographs")),
            f"out/cache/latents-0123456789ab-192-moving-photographs-{HEX}.4.tmp",
        ]
    )
    others = written(
        [
            *("out/notes.tmp", "out/checkpoint.tmp", "out/my-model.7.tmp", f"out/folder-{HEX}.bin", "out/.lock"),
            *("out/cache/download.4.tmp", "out/cache/folder-0123.4.tmp", f"out/cache/folder-{HEX}.4.tmp.part"),
        ]
    )
    with own_folder(Path("out/checkpoint.safetensors"), resume=False):
        assert not any(path.exists() for path in left)
    assert all(path.read_text() == "content" for path in others)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (FolderImages, {"kind": "folder", "path": "pictures"}),
        (StreetImages, {**STREET, "frames": 1, "interval_s": 1.0}),
        (StreetClips, {**STREET, "frames": 3, "intervals_s": [1.0]}),
        (MovingPhotographs, {"kind": "moving-photographs", "path": "pictures", "clips": 1, "frames": 3}),
    ],
)
def test_the_cache_of_every_source_is_known_by_its_name(kind: type[Source], words: dict[str, object]) -> None:
    pictures("pictures", 1)
    path = Path(cache_name(kind.model_validate(words)))
    path.write_bytes(b"")
    Path("records.bin").write_bytes(b"")
    assert own_files(Path(), CACHES) == [path]
    assert own_files(Path("gone"), CACHES) == []
