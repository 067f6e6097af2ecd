"""Settings, sweeps, paths, and scenarios that are written and read again."""

import re
from pathlib import Path

import pytest
import yaml

from roadbits.fleet.camera_words import DataSetCameras
from roadbits.fleet.scenario import ConstantUplink, Scenario, TwoStateUplink
from roadbits.fleet.scenario_file import dump_scenario, load_scenario
from tests.fleet.small_scenario import SMALL, edited, faults, load, one

SHIPPED = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


def test_settings_override_keys_and_entries_of_lists(tmp_path: Path) -> None:
    scenario = one(
        tmp_path,
        SMALL,
        "seed=9",
        "codecs[0].points=[quality=5, quality=7]",
        "fleet.uplink={kind: two-state, sigma: 0.1}",
    )
    assert scenario.seed == 9
    assert scenario.codecs[0].points == ("quality=5", "quality=7")
    assert scenario.fleet.uplink == TwoStateUplink(kind="two-state", sigma=0.1)
    assert one(tmp_path, SMALL, "codecs[0].points[0]=quality=6").codecs[0].points == ("quality=6",)


def test_of_two_settings_of_one_key_the_last_holds(tmp_path: Path) -> None:
    assert one(tmp_path, SMALL, "seed=1", "seed=2").seed == 2


def test_a_setting_may_add_what_the_file_leaves_out(tmp_path: Path) -> None:
    scenario = one(tmp_path, SMALL, "fleet.faults.loss_probability=1e-1", "question=Why not?")
    assert scenario.fleet.faults.loss_probability == 0.1
    assert scenario.question == "Why not?"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("seed", "'seed' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("seed=[1", "seed cannot be set: '[1' is no YAML value: expected ',' or ']', but got '<stream end>'"),
        ("seed={a: 1, a: 2}", "seed cannot be set: '{a: 1, a: 2}' is no YAML value: stands twice, first on line 1"),
        ("seed=-3", "seed input should be greater than or equal to 0, got -3"),
        ("sede=3", "sede is no key of a scenario; did you mean seed?"),
        ("flet.vehicles=3", "flet is no key of a scenario; did you mean fleet?"),
        ("codecs[1].name=webp", "codecs[1].name cannot be set: a list of 1 has no entry 1"),
        ("codecs[²].name=webp", "codecs.².name cannot be set: a list of 1 has no entry '²'"),
        ("fleet.vehicles.few=1", "fleet.vehicles.few cannot be set: 'few' lies below a value, 2"),
        ("cameras={kind: street, test_frames: 2}", "cameras.frames_per_vehicle is missing"),
        (
            "fleet.uplink={kind: constant, rate_mbps: -1}",
            "fleet.uplink.rate_mbps input should be greater than 0, got -1",
        ),
    ],
)
def test_a_bad_setting_is_reported_as_such_and_not_as_a_line_of_the_file(
    setting: str, expected: str, tmp_path: Path
) -> None:
    assert faults(tmp_path, SMALL, setting) == [f"--set: {expected}"]


def test_bad_settings_are_reported_together_with_the_faults_of_the_file(tmp_path: Path) -> None:
    text = edited("encode_watts: 5", "encode_watts: -5")
    assert faults(tmp_path, text, "seed", "fleet.vehicles=0") == [
        "--set: 'seed' is not of the form key=value",
        "--set: fleet.vehicles input should be greater than or equal to 1, got 0",
        "run.yaml:11: fleet.device.encode_watts input should be greater than or equal to 0, got -5",
    ]


def test_a_list_where_one_value_is_expected_is_a_sweep(tmp_path: Path) -> None:
    scenarios = load(tmp_path, edited("rate_mbps: 1}", "rate_mbps: [1, 2.5]}"), "seed=[3, 4, 5]")
    assert [(each.seed, each.fleet.uplink) for each in scenarios] == [
        (seed, ConstantUplink(kind="constant", rate_mbps=rate)) for seed in (3, 4, 5) for rate in (1, 2.5)
    ]
    assert [each.name for each in scenarios][:2] == [
        "small-seed=3,fleet.uplink.rate_mbps=1",
        "small-seed=3,fleet.uplink.rate_mbps=2.5",
    ]


def test_a_list_where_a_list_is_expected_is_no_sweep(tmp_path: Path) -> None:
    scenario = one(
        tmp_path, SMALL, "downstream.seeds=[0, 1, 2]", "cameras.domains=[day, rain]", "downstream.crop=[64, 96]"
    )
    assert scenario.name == "small"
    assert scenario.downstream is not None
    assert (scenario.downstream.seeds, scenario.downstream.crop) == ((0, 1, 2), (64, 96))


def test_a_whole_part_may_be_swept(tmp_path: Path) -> None:
    uplinks = "[{kind: constant, rate_mbps: 1}, {kind: two-state}]"
    scenarios = load(tmp_path, SMALL, f"fleet.uplink={uplinks}")
    assert [each.fleet.uplink.kind for each in scenarios] == ["constant", "two-state"]
    assert_names_are_distinct_and_safe(scenarios)


def assert_names_are_distinct_and_safe(scenarios: list[Scenario]) -> None:
    names = [each.name for each in scenarios]
    assert len(set(names)) == len(names) > 1
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,99}", name)


@pytest.mark.parametrize(
    "values",
    [
        "[a/b, a-b, 'a b']",
        "[What!, Größe, Grüße, ../up]",
        f"[{'x' * 200}1, {'x' * 200}2]",
        "[same, same]",
    ],
)
def test_names_of_a_sweep_are_distinct_and_safe_for_folders(values: str, tmp_path: Path) -> None:
    scenarios = load(tmp_path, SMALL, f"question={values}")
    assert len(scenarios) == len(yaml.safe_load(values))
    assert_names_are_distinct_and_safe(scenarios)


def test_the_faults_of_all_variants_of_a_sweep_are_reported_once_each(tmp_path: Path) -> None:
    text = edited("encode_watts: 5", "encode_watts: -5")
    assert faults(tmp_path, text, "fleet.vehicles=[0, 2, -1]") == [
        "--set: fleet.vehicles input should be greater than or equal to 1, got 0",
        "--set: fleet.vehicles input should be greater than or equal to 1, got -1",
        "run.yaml:11: fleet.device.encode_watts input should be greater than or equal to 0, got -5",
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_resolved_scenario_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    for scenario in load_scenario(path):
        assert one(tmp_path, dump_scenario(scenario)) == scenario


@pytest.mark.parametrize(
    "settings",
    [
        ("question='1e-4'", "name='1e5'"),
        ("question='yes'",),
        ("question='Größe: #1, \"two\"'",),
        ("downstream=null",),
        ("downstream.learning_rate=1e-20",),
        ("fleet.faults.outages_s=[[1, 2.5], [1e1, 20]]",),
        ("fleet.uplink={kind: trace, path: '1e3'}",),
        ("downstream.options={a: 1, b: 1.5, c: '1e3', d: true}",),
        ("seed=4294967295",),
    ],
    ids=lambda settings: settings[0],
)
def test_odd_values_read_back_as_themselves(settings: tuple[str, ...], tmp_path: Path) -> None:
    scenario = one(tmp_path, SMALL, *settings)
    assert one(tmp_path, dump_scenario(scenario)) == scenario


def data_set(tmp_path: Path, path: str) -> str:
    cameras = one(tmp_path, SMALL, f"cameras={{kind: camvid, path: {path}}}").cameras
    assert isinstance(cameras, DataSetCameras)
    return cameras.path


@pytest.mark.parametrize("path", ["$ROADBITS_DATA/camvid", "'${ROADBITS_DATA}/camvid'"])
def test_the_data_folder_comes_from_the_environment(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROADBITS_DATA", "/somewhere/else")
    assert data_set(tmp_path, path) == "/somewhere/else/camvid"
    monkeypatch.delenv("ROADBITS_DATA")
    assert data_set(tmp_path, path) == str(Path("../shared/data/camvid").absolute())
    monkeypatch.setenv("ROADBITS_DATA", "")
    assert data_set(tmp_path, path) == str(Path("../shared/data/camvid").absolute())


def test_other_variables_and_the_home_folder_are_replaced_in_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DRIVES", "tour")
    monkeypatch.setenv("HOME", "/home/me")
    assert data_set(tmp_path, "~/$DRIVES/camvid") == "/home/me/tour/camvid"
