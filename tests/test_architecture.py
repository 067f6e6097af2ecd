"""The shape of the house, read from the files: who imports whom, what is packaged, what lies where."""

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("codecs", "fleet", "restoration", "downstream", "scenarios")
TOP_LEVEL = {"pyproject.toml", *PACKAGES, "tests", "README.md", "LICENSE", "CHANGELOG.md"}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())

MAY_NOT_IMPORT = {
    "codecs": ("roadbits.fleet", "roadbits.restoration", "roadbits.downstream", "roadbits.scenarios"),
    "restoration": ("roadbits.fleet", "roadbits.downstream", "roadbits.scenarios"),
    "downstream": ("roadbits.fleet", "roadbits.restoration", "roadbits.scenarios"),
}
ONLY_IN = {
    "ray": ("fleet/actors.py",),
    "flwr": ("fleet/sharing.py", "fleet/flower_app.py"),
    "yaml": ("fleet/yaml_file.py",),
    "constriction": ("codecs/symbol_tables.py",),
    "click": ("fleet/cli.py", "fleet/codec_commands.py", "fleet/commands.py"),
    "av": ("codecs/legacy/", "fleet/cameras/video.py"),
    "panda3d": ("fleet/cameras/street/",),
    "direct": ("fleet/cameras/street/",),
}


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of all that a module imports, wherever in it, `from x import y` as `x.y`."""
    package = ("roadbits", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*above, *((node.module or "").split(".") if node.module else ())))
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@every_module
def test_imports_point_down_only(path: Path) -> None:
    forbidden = MAY_NOT_IMPORT.get(path.relative_to(ROOT).parts[0], ())
    assert not [name for name in imported(path) for package in forbidden if lies_in(name, package)]


@every_module
def test_a_heavy_library_is_imported_only_where_it_belongs(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for library, places in ONLY_IN.items():
        if any(lies_in(name, library) for name in imported(path)):
            assert place.startswith(places), f"{place} imports {library}, which belongs in {' or '.join(places)}"


@every_module
def test_project_code_is_imported_through_the_umbrella(path: Path) -> None:
    bare = ("fleet", "restoration", "downstream", "scenarios", "tests")
    assert not [name for name in imported(path) for package in bare if lies_in(name, package)]


@every_module
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@every_module
def test_a_module_is_named_by_what_it_holds(path: Path) -> None:
    assert not {*path.relative_to(ROOT).with_suffix("").parts} & {
        "utils",
        "common",
        "helpers",
        "misc",
        "util",
        "helper",
    }


def test_the_listed_packages_are_the_folders_with_an_init_file() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in MODULES if path.name == "__init__.py"}
    assert sorted(setuptools["packages"]) == sorted(".".join(("roadbits", *folder.parts)) for folder in folders)
    assert {path.parent.relative_to(ROOT) for path in MODULES} == folders
    assert setuptools["package-dir"] == {f"roadbits.{package}": package for package in PACKAGES}


def test_the_top_level_holds_what_was_agreed_and_no_more() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.strip('"').split("/")[0] for line in listed.splitlines()}
    assert not {name for name in top if not name.startswith(".")} - TOP_LEVEL
    assert {"pyproject.toml", "README.md", "LICENSE", *PACKAGES} <= top
