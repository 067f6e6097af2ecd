"""The README and the scenarios' README say what is there."""

import re
import shutil
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from roadbits.fleet.cli import cli
from roadbits.fleet.scenario_file import load_scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))


def test_ci_runs_the_readme_s_test_command_word_for_word() -> None:
    command = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
    assert f"    {command}\n" in README
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_is_in_the_readme_and_explains_itself(command: str) -> None:
    assert f"    roadbits {command}" in README
    done = CliRunner().invoke(cli, [command, "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 3


def test_every_folder_and_file_the_readme_maps_exists() -> None:
    tree = README.split("## The folders")[1].split("Packages import")[0]
    folder = ""
    for line in filter(None, map(str.rstrip, tree.splitlines())):
        indent, words = len(line) - len(line.lstrip()), line.split()
        if indent == 4:
            folder = words[0]
            assert (ROOT / folder).is_dir(), words[0]
        else:
            for name in (word for word in words if word.endswith((".py", "/")) and indent == 6):
                assert (ROOT / folder / name).exists(), f"{folder}{name}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_is_in_the_scenarios_readme_and_has_its_file_s_name(scenario: Path) -> None:
    assert f"`{scenario.stem}`" in (ROOT / "scenarios" / "README.md").read_text()
    (words,) = load_scenario(scenario)
    assert words.name == scenario.stem
    assert words.question


def test_the_readme_s_scenario_of_ones_own_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = README.index("    name: own\n")
    text = textwrap.dedent(README[begin : README.index("\n\n", begin)])
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "codecs" / "weights" / "cae.safetensors", "mine.safetensors")
    Path("own.yaml").write_text(text)
    (own,) = load_scenario(Path("own.yaml"))
    assert [choice.name for choice in own.codecs] == ["jpeg", "cae:mine.safetensors"]


def test_cards_agree_on_which_of_two_codecs_needs_fewer_bits() -> None:
    changes: dict[tuple[str, str], list[float]] = {}
    for card in sorted((ROOT / "codecs" / "weights").glob("*.md")):
        for row in re.findall(
            r"^\| (\S+) \| (\S+) \| ([+-][\d.]+) \| ([+-][\d.]+) \|$", card.read_text(), re.MULTILINE
        ):
            changes[row[0], row[1]] = [1 + float(percent) / 100 for percent in row[2:]]
    both = [pair for pair in changes if pair[::-1] in changes]
    assert len(both) >= 6
    for one, other in both:
        for change, inverse in zip(changes[one, other], changes[other, one], strict=True):
            assert change * inverse == pytest.approx(1, abs=0.002), (one, other)
