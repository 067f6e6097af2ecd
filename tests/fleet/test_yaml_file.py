import datetime
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadbits.fleet.yaml_file import Fault, YamlFile, YamlFileError, dotted, parse_scalar, read_yaml


def read(folder: Path, text: str) -> YamlFile:
    path = folder / "scenario.yaml"
    path.write_text(text, "utf-8")
    return read_yaml(path)


def texts(file: YamlFile) -> list[str]:
    return [str(fault) for fault in file.faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("+2e3", 2e3),
        ("-.5", -0.5),
        (".5e1", 5.0),
        ("1.e5", 1e5),
        ("1.5", 1.5),
        ("12", 12),
        ("0x10", 16),
        ("true", True),
        ("null", None),
        ("~", None),
        (".inf", math.inf),
        ("1e999", math.inf),
        ('"1e-4"', "1e-4"),
        ("'12'", "12"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1-4", "1-4"),
        ("1__0e5", "1__0e5"),
        ("1.2.3", "1.2.3"),
        ("width=96", "width=96"),
        ("2024-01-31", datetime.date(2024, 1, 31)),
        ("[1, {a: 2e-1}]", [1, {"a": 0.2}]),
    ],
)
def test_a_value_is_read_as_people_mean_it(tmp_path: Path, text: str, value: Any) -> None:
    file = read(tmp_path, f"key: {text}")
    assert file.values == {"key": value}
    assert type(file.values["key"]) is type(value)
    assert file.faults == []
    assert parse_scalar(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_every_number_python_writes_is_a_number(number: float) -> None:
    for text in (repr(number), f"{number:e}", f"{number:g}"):
        assert parse_scalar(text) == float(text)


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    file = read(tmp_path, "# a comment\nname: x\nfleet:\n  vehicles: 3\n  tags:\n    - a\n    - b: 1\n      c: 2\n")
    assert file.lines[("name",)] == 2
    assert file.lines[("fleet",)] == 3
    assert file.lines[("fleet", "vehicles")] == 4
    assert file.lines[("fleet", "tags", 0)] == 6
    assert file.lines[("fleet", "tags", 1, "c")] == 8


def test_duplicate_keys_are_reported_with_both_lines(tmp_path: Path) -> None:
    file = read(tmp_path, "a: 1\nb:\n  c: 1\n\n  c: 2\na: 3\n")
    assert texts(file) == ["5: b.c stands twice, first on line 3", "6: a stands twice, first on line 1"]
    assert file.values == {"a": 1, "b": {"c": 1}}


def test_keys_that_differ_only_in_their_quotes_are_duplicates(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a: 1\n'a': 2\n")) == ["2: a stands twice, first on line 1"]


def test_equal_keys_in_different_places_are_no_duplicates(tmp_path: Path) -> None:
    assert read(tmp_path, "a: {x: 1}\nb: {x: 1}\nc: [{x: 1}, {x: 1}]\n").faults == []


def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    file = read(tmp_path, "a: 1\na: 2\nb: !!int x\nc: &c [*c]\n? [d, e]\n: 1\nf: 2024-13-45\ng: 7\n")
    assert [fault.line for fault in file.faults] == [2, 3, 4, 5, 7]
    assert file.values["g"] == 7


@pytest.mark.parametrize(
    "text",
    [
        *('!!int ""', '!!float ""', "!!int _", "!!int abc", "!!float x", "!!bool maybe", "!!timestamp x", "!mine 1"),
        *("!!python/object/apply:os.getcwd ''", "2024-13-45", "9" * 6000, "1:" * 400 + "0.5"),
    ],
)
def test_a_value_that_cannot_be_made_is_a_fault_in_one_line(tmp_path: Path, text: str) -> None:
    file = read(tmp_path, f"ok: 1\nkey: {text}")
    (fault,) = file.faults
    assert str(fault).startswith("2: key cannot be read: ")
    assert "\n" not in str(fault)
    with pytest.raises(ValueError, match="is no YAML value"):
        parse_scalar(text)


def test_aliases_stand_for_their_anchor(tmp_path: Path) -> None:
    file = read(tmp_path, "a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    assert file.values == {"a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}]}
    assert file.faults == []


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a {b: [1, {c: *a}]}"])
def test_an_alias_that_refers_to_itself_is_a_fault(tmp_path: Path, text: str) -> None:
    (fault,) = read(tmp_path, text).faults
    assert fault.line == 1
    assert fault.message == "refers to itself"


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
    with pytest.raises(YamlFileError, match="has more than 100000 values"):
        read(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("text", ["[" * 700, "a: " + "[" * 700 + "]" * 700, "{a: " * 700])
def test_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(YamlFileError, match=r"scenario\.yaml:1: is nested too deeply"):
        read(tmp_path, text)
    with pytest.raises(ValueError, match="is no YAML value"):
        parse_scalar(text)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb: [1,\nc: }\n", 3, "expected the node content"),
        ("a: 1\n b: 2\n", 2, "mapping values are not allowed here"),
        ("a: 1\nb: *nowhere\n", 2, "undefined alias 'nowhere'"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: 1\n\tb: 2\n", 2, "cannot start any token"),
        ("a: 1\n\nb: \x07\n", 3, "unacceptable character #x0007"),
    ],
)
def test_what_is_no_yaml_has_a_line_and_a_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(YamlFileError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'scenario.yaml'}:{line}: is no YAML: ")
    assert reason in message
    assert "\n" not in message


@given(st.text("ab01:-[]{}&*!'\"#|>\n \t,?%@.e", max_size=40))
@settings(deadline=None, derandomize=True, max_examples=500)
def test_any_text_is_a_value_or_refused(text: str) -> None:
    try:
        parse_scalar(text)
    except ValueError as error:
        assert "is no YAML value" in str(error)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_has_no_keys(tmp_path: Path, text: str) -> None:
    assert not read(tmp_path, text).values


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(YamlFileError, match="cannot be read") as caught:
            read_yaml(path)
        assert str(caught.value).startswith(f"{path}:1: ")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(YamlFileError, match="has 4000001 characters, expected at most 4000000"):
        read(tmp_path, "#" * 4_000_001)


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "!!int x", "[1", "a: b: c", "&a [*a]"])
def test_a_setting_with_a_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no YAML value"):
        parse_scalar(text)


def test_an_empty_setting_is_none() -> None:
    assert parse_scalar("") is None


def test_faults_are_sorted_by_line_and_then_by_path() -> None:
    faults = [Fault(3, ("b",), "is wrong"), Fault(1, ("z", 2, "k"), "is wrong"), Fault(1, (), "is odd")]
    error = YamlFileError(Path("run.yaml"), [*faults, Fault(1, ("a",), "is wrong")])
    assert str(error).splitlines() == [
        "run.yaml:1: is odd",
        "run.yaml:1: a is wrong",
        "run.yaml:1: z[2].k is wrong",
        "run.yaml:3: b is wrong",
    ]


def test_a_path_is_written_as_people_write_it() -> None:
    assert dotted(()) == ""
    assert dotted(("codecs", 1, "points", 0)) == "codecs[1].points[0]"
    assert dotted((0, "a")) == "[0].a"
