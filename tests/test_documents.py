"""The README and the scenarios' README say what is there."""

import json
import re
import shutil
import textwrap
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from roadbits.codecs import bitstream, catalogue
from roadbits.codecs.bitstream import BitstreamError
from roadbits.codecs.codec import Codec, OperatingPoint
from roadbits.codecs.metrics import RateQuality, bd_rate
from roadbits.fleet.cli import cli
from roadbits.fleet.conditions import position_of
from roadbits.fleet.links import trace_for
from roadbits.fleet.plan import Plan
from roadbits.fleet.scenario import Fleet, Scenario
from roadbits.fleet.scenario_file import load_scenario
from tests.fleet.command_line import done, picture

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCENARIOS_README = (ROOT / "scenarios" / "README.md").read_text()
SCENARIOS = sorted((ROOT / "scenarios").glob("*.yaml"))


def block(text: str, first_line: str) -> str:
    """Return the indented block that begins with a line, blank lines within it included."""
    begin = re.search(rf"^ +{re.escape(first_line)}$", text, re.MULTILINE)
    assert begin is not None, first_line
    indent, kept = len(begin.group()) - len(first_line), []
    for line in text[begin.start() :].splitlines():
        if line.strip() and len(line) - len(line.lstrip()) < indent:
            break
        kept.append(line)
    return textwrap.dedent("\n".join(kept)).strip() + "\n"


def section(heading: str) -> str:
    """Return what the README says under a heading."""
    begin = README.index(f"\n{heading}\n")
    return re.split(r"\n##+ ", README[begin + len(heading) + 2 :])[0]


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


@pytest.mark.parametrize("package", ["codecs", "restoration", "downstream", "fleet"])
def test_every_file_of_a_package_is_in_the_readme_s_map(package: str) -> None:
    (files,) = re.findall(rf"^    {package}/.*\n((?:      .*\n)+)", README.split("## The folders")[1], re.MULTILINE)
    mapped = set(re.findall(r"^      (\w+)\.py ", files, re.MULTILINE))
    assert mapped == {path.stem for path in (ROOT / package).glob("*.py") if not path.stem.startswith("__")}


def test_every_link_within_the_readme_leads_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_is_in_the_scenarios_readme_and_has_its_file_s_name(scenario: Path) -> None:
    assert f"`{scenario.stem}`" in SCENARIOS_README
    (words,) = load_scenario(scenario)
    assert words.name == scenario.stem
    assert words.question


def test_the_readme_s_scenario_of_ones_own_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_scenario(tmp_path, monkeypatch)
    assert [choice.name for choice in own.codecs] == ["jpeg", "cae:mine.safetensors"]


def own_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Scenario:
    """Return the README's scenario of one's own; `changes` replace or add keys within its parts."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "codecs" / "weights" / "cae.safetensors", "mine.safetensors")
    words = yaml.safe_load(block(README, "name: own"))
    Path("own.yaml").write_text(yaml.safe_dump(words | {name: words.get(name, {}) | changes[name] for name in changes}))
    (own,) = load_scenario(Path("own.yaml"))
    return own


def test_the_readme_s_traces_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = section("### Links")
    Path(tmp_path / "lte.csv").write_text(block(links, "seconds,Mbit/s"))
    own = own_scenario(tmp_path, monkeypatch, **yaml.safe_load(block(links, "fleet:")))
    trace = trace_for(own.fleet, own.seed, 0)
    assert trace.mean_mbps == pytest.approx((2.4 * 0.5 + 1.1 * 0.5) / 1.5)
    groups = Fleet.model_validate(yaml.safe_load(block(links, "groups:"))).everyone
    assert [(group.vehicles, group.uplink.kind) for group in groups] == [(1, "trace")] * 2


def test_the_readme_s_restoration_of_own_frames_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = own_scenario(tmp_path, monkeypatch, **yaml.safe_load(block(section("### Restoration"), "cameras:")))
    assert own.restoration is not None
    assert [arm.key for arm in Plan(own).restored_stills] == ["jpeg:quality=10"]


@pytest.fixture
def bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Codec:
    """Return the README's codec of one's own, once it is in the catalogue as the README says."""
    source = section("### A codec of your own")
    added = re.search(r"`(\w+) = (\d+)`", source)
    assert added is not None
    known = {known.name: int(known) for known in bitstream.CodecId}
    assert int(added[2]) not in known.values()
    monkeypatch.setattr(bitstream, "CodecId", IntEnum("CodecId", known | {added[1]: int(added[2])}))
    code = block(source, "import math, zlib")
    assert len(code.splitlines()) <= 25
    names: dict[str, Any] = {}
    exec(code, names)
    codec: Codec = names["Bits"]()
    monkeypatch.setattr(catalogue, "LEGACY_CODECS", (*catalogue.LEGACY_CODECS, codec))
    monkeypatch.setattr(catalogue, "_LEGACY_IDS", catalogue._LEGACY_IDS | {int(added[2]): codec})
    monkeypatch.chdir(tmp_path)
    return codec


class TestTheReadmeSCodecOfOnesOwn:
    def test_it_is_taken_by_its_name(self, bits: Codec) -> None:
        picture("frames/0.png")
        done("encode", "frames/0.png", "0.rb", "--codec", "bits", "--bpp", "6")
        done("decode", "0.rb", "again.png")
        done("rd", "--images", "frames", "--codec", "jpeg,bits", "--json", "rd.json")
        points = [point for point in json.loads(Path("rd.json").read_text())["points"] if point["codec"] == "bits"]
        assert [point["point"] for point in points] == [f"bits={n}" for n in range(1, 9)]
        qualities = [point["psnr_db"] for point in points]
        assert qualities == sorted(qualities)
        assert qualities[-1] == 100

    def test_a_vehicle_a_policy_and_a_restorer_can_have_it(
        self, bits: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        device = {"encode_mpx_per_s": {"bits": 10, "jpeg": 80}, "encode_watts": 5, "radio_joules_per_mbit": 1}
        words = {"vehicles": 1, "uplink": {"kind": "constant", "rate_mbps": 1}, "device": device}
        codecs = [{"name": "bits", "points": ["bits=3"], "policies": [{"kind": "target-bpp", "bpp": 4}]}]
        own = Scenario.model_validate(
            {"name": "own", "cameras": {"kind": "folder", "images": "frames"}, "fleet": words, "codecs": codecs}
        )
        assert [arm.key for arm in Plan(own).arms] == ["bits:bits=3", "bits:target-bpp=4"]
        assert position_of("bits", "bits=8") == 1

    def test_what_is_damaged_or_foreign_is_refused(self, bits: Codec) -> None:
        image = np.zeros((8, 8, 3), np.uint8)
        container = bitstream.unpack(bits.encode(image, OperatingPoint.of(bits=4)))
        for faulty in (replace(container, body=b"?"), replace(container, body=b""), replace(container, point=(9,))):
            with pytest.raises(BitstreamError, match="bits body does not decode"):
                bits.decode(bitstream.pack(faulty))
        with pytest.raises(ValueError, match="bits has no point"):
            bits.encode(image, OperatingPoint.of(quality=4))


def test_the_script_of_the_scenarios_readme_joins_the_points_of_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ours, others = [(0.1, 30.0), (0.2, 32.0), (0.4, 34.0)], [(0.12, 30.0), (0.25, 32.0), (0.45, 34.0)]
    for name, points in {"ours": ours, "one": others[:1], "two": others[1:]}.items():
        told = [{"codec": name, "bpp": rate, "psnr_db": quality} for rate, quality in points]
        Path(f"{name}.json").write_text(json.dumps({"points": told}))
    monkeypatch.setattr("sys.argv", ["joined.py", "ours.json", "one.json,two.json"])
    exec(block(SCENARIOS_README, "import json, sys"), {})
    expected = bd_rate(*(RateQuality(*zip(*points, strict=True)) for points in (ours, others))).percent
    assert capsys.readouterr().out == f"{expected:+.1f} %\n"


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
