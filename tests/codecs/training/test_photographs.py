import subprocess
from pathlib import Path

import pytest

from roadbits.codecs.training import photographs
from roadbits.codecs.training.photographs import (
    HELD_OUT,
    PACKAGES,
    TRAIN,
    PhotographsError,
    fetch_package,
    write_photographs,
)


def fake(package: str, folder: Path) -> None:
    """Unpack a package whose photographs hold their own path."""
    for each in (*TRAIN, *HELD_OUT):
        if each.package == package:
            (folder / each.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / each.path).write_text(f"{package} {each.path}")
    notice = folder / "usr/share/doc" / package / "copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text(f"Licence of {package}: größtenteils CC\n", "utf-8")


def without(missing: str) -> photographs.Fetch:
    def fetch(package: str, folder: Path) -> None:
        fake(package, folder)
        for path in folder.rglob(missing):
            path.unlink()

    return fetch


def test_33_photographs_are_trained_on_and_3_others_held_out() -> None:
    assert (len(TRAIN), len(HELD_OUT)) == (33, 3)
    assert len({*TRAIN, *HELD_OUT}) == 36
    assert {each.package for each in (*TRAIN, *HELD_OUT)} == {*PACKAGES}
    assert {each.path.suffix for each in (*TRAIN, *HELD_OUT)} == {".jpg"}


def test_files_are_copied_untouched_and_sort_in_the_order_of_the_list(tmp_path: Path) -> None:
    write_photographs(tmp_path / "photographs", fake)
    for part, listed in (("train", TRAIN), ("held-out", HELD_OUT)):
        files = sorted((tmp_path / "photographs" / part).iterdir())
        assert [path.read_text() for path in files] == [f"{each.package} {each.path}" for each in listed]


def test_names_tell_the_photograph_s_title(tmp_path: Path) -> None:
    write_photographs(tmp_path, fake)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert (names[0], names[12], names[32]) == ("00-Bridge_by_Sander_Klootwijk.jpg", "12-Aqua.jpg", "32-Volna.jpg")
    assert sorted(path.name for path in (tmp_path / "held-out").iterdir())[2] == "02-EveningGlow.jpg"


def test_the_attribution_repeats_the_notice_of_every_package(tmp_path: Path) -> None:
    write_photographs(tmp_path, fake)
    text = (tmp_path / "ATTRIBUTION.txt").read_text("utf-8")
    for package in PACKAGES:
        assert f"{package}\n\nLicence of {package}: größtenteils CC\n" in text


def test_a_file_that_changed_its_name_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "photographs"
    with pytest.raises(PhotographsError, match=r"may have changed since: mate-backgrounds/usr/.*/Dune\.jpg$"):
        write_photographs(out, without("Dune.jpg"))
    assert not out.exists()


def test_a_package_without_a_notice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PhotographsError, match=r"lomiri-wallpapers-20\.04/copyright"):
        write_photographs(tmp_path, without("lomiri-wallpapers-20.04/copyright"))


def test_photographs_of_an_earlier_call_are_kept(tmp_path: Path) -> None:
    write_photographs(tmp_path, fake)
    with pytest.raises(PhotographsError, match="holds photographs already"):
        write_photographs(tmp_path, fake)
    assert len(list((tmp_path / "train").iterdir())) == 33


@pytest.mark.parametrize("tool", ["apt-get", "dpkg-deb"])
def test_a_missing_tool_is_named(tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(PhotographsError, match=f"{tool} is missing"):
        fetch_package("mate-backgrounds", tmp_path)


def test_a_package_is_fetched_and_unpacked_and_its_archive_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], *, cwd: Path, **_: object) -> "subprocess.CompletedProcess[str]":
        called.append(command)
        if command[0] == "apt-get":
            (cwd / "mate-backgrounds_1.26.0-1_all.deb").touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", run)
    fetch_package("mate-backgrounds", tmp_path)
    assert called == [
        ("apt-get", "download", "mate-backgrounds"),
        ("dpkg-deb", "-x", "mate-backgrounds_1.26.0-1_all.deb", "."),
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_tool_s_own_words_are_told_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: tuple[str, ...], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, 100, "", "W: warned\nE: Unable to locate package\n")

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(PhotographsError, match=r"apt-get download mate-backgrounds failed: E: Unable .*apt-get update"):
        fetch_package("mate-backgrounds", tmp_path)
