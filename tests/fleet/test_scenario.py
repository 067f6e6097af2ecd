import math
import re
from pathlib import Path

import pytest

from roadbits.codecs.catalogue import still_or_clip_codec_named
from roadbits.fleet.camera_words import StreetCameras
from roadbits.fleet.cameras.street import DOMAINS
from roadbits.fleet.devices import ladder_of
from roadbits.fleet.plan import Plan
from roadbits.fleet.scenario import ConstantUplink
from roadbits.fleet.scenario_file import dump_scenario, load_scenario
from roadbits.fleet.vehicle import Arm, arms_of
from roadbits.fleet.yaml_file import YamlFileError
from tests.fleet.small_scenario import SMALL, edited, faults, one

SHIPPED = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


def test_some_scenarios_are_shipped() -> None:
    assert {"smoke", "camvid-legacy"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_scenario_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROADBITS_DATA", str(tmp_path / "no-data-here"))
    scenarios = load_scenario(path)
    assert scenarios
    for scenario in scenarios:
        assert scenario.name.startswith(path.stem)
        assert scenario.question.endswith(("?", "?)", "nothing.)"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_scenario_says_how_fast_its_codecs_are(path: Path) -> None:
    for scenario in load_scenario(path):
        for group in scenario.fleet.everyone:
            for choice in scenario.codecs:
                codec = still_or_clip_codec_named(choice.name)
                assert (ladder_of(group.device, codec, 240, 320).seconds > 0).all()


def test_a_scenario_is_read_as_it_is_written(tmp_path: Path) -> None:
    scenario = one(tmp_path, SMALL)
    assert (scenario.name, scenario.seed, scenario.question) == ("small", 0, "")
    assert isinstance(scenario.cameras, StreetCameras)
    assert (scenario.cameras.domains, scenario.cameras.height, scenario.cameras.width) == (("day",), 360, 480)
    assert scenario.fleet.uplink == ConstantUplink(kind="constant", rate_mbps=1)
    assert scenario.fleet.device.encode_mpx_per_s == {"jpeg": 30}
    assert [(choice.name, choice.points) for choice in scenario.codecs] == [("jpeg", ("quality=10",))]
    assert scenario.downstream is not None
    assert (scenario.downstream.steps, scenario.downstream.seeds) == (3, (0,))


def test_all_faults_are_reported_at_once_with_path_and_line(tmp_path: Path) -> None:
    text = """\
name: bad
sed: 3
seed: -1
seed: 4
cameras:
  kind: street
  heigth: 96
  height: tall
  domains: [day, hail]
  frames_per_vehicle: 0
fleet:
  vehicles: 2.5
  uplink: {kind: constant, rate_mbps: .inf}
  device: {encode_mpx_per_s: {jpeg: .nan}, encode_watts: yes}
  uplinks: 1
codecs:
  - {name: jpg}
  - {name: jpeg, points: [quality=10, foo]}
downstream: {steps: 1, setups: [XX], crop: [1]}
"""
    domains = ", ".join(DOMAINS)
    assert faults(tmp_path, text) == [
        "run.yaml:2: sed is no key of a scenario; did you mean seed?",
        "run.yaml:3: seed input should be greater than or equal to 0, got -1",
        "run.yaml:4: seed stands twice, first on line 3",
        "run.yaml:5: cameras.test_frames is missing",
        "run.yaml:7: cameras.heigth is no key of a scenario; did you mean height?",
        "run.yaml:8: cameras.height input should be a valid integer, got 'tall'",
        f"run.yaml:9: cameras.domains[1] no domain 'hail': choose from {domains}",
        "run.yaml:10: cameras.frames_per_vehicle input should be greater than or equal to 1, got 0",
        "run.yaml:12: fleet.vehicles input should be a valid integer, got 2.5",
        "run.yaml:13: fleet.uplink.rate_mbps input should be a finite number, got inf",
        "run.yaml:14: fleet.device.encode_mpx_per_s.jpeg input should be a finite number, got nan",
        "run.yaml:14: fleet.device.encode_watts input should be a valid number, got True",
        "run.yaml:14: fleet.device.radio_joules_per_mbit is missing",
        "run.yaml:15: fleet.uplinks is no key of a scenario; did you mean uplink?",
        "run.yaml:17: codecs[0].name no codec 'jpg': choose from jpeg, jpeg2000, webp, avif, hevc-intra, "
        "cae, hyperprior, slimcae, or NAME:FILE for weights of your own, of cae, hyperprior, scaling, mae, "
        "conditional, gain, slimcae, slimhyperprior, or NAME/WIDTH for one width of a codec of several, or "
        "any of these with +FILE.safetensors for an adapter; of clips: mpeg2, h264, h264-lowdelay, hevc, "
        "hevc-lowdelay, av1, av1-lowdelay, slimvc",
        "run.yaml:18: codecs[1].points[1] operating point 'foo' is not of the form knob=value[,knob=value]",
        "run.yaml:19: downstream.crop[1] is missing",
        "run.yaml:19: downstream.setups[0] input should be 'OO', 'CO', 'RO', 'CC', 'OC' or 'RC', got 'XX'",
    ]


def test_an_empty_file_lacks_all_that_is_required(tmp_path: Path) -> None:
    expected = [f"run.yaml:1: {key} is missing" for key in ("cameras", "codecs", "fleet", "name")]
    assert faults(tmp_path, "") == expected


def test_a_list_is_no_scenario(tmp_path: Path) -> None:
    assert faults(tmp_path, "- 1\n") == ["run.yaml:1: expected keys such as name, cameras, fleet, codecs"]


def test_a_duplicate_key_is_the_only_fault_of_an_otherwise_good_file(tmp_path: Path) -> None:
    assert faults(tmp_path, SMALL + "seed: 1\nseed: 1\n") == ["run.yaml:18: seed stands twice, first on line 17"]


def test_a_number_with_an_exponent_and_no_point_is_a_number(tmp_path: Path) -> None:
    downstream = one(tmp_path, SMALL + "  learning_rate: 1e-4\n  weight_decay: 5E-3\n").downstream
    assert downstream is not None
    assert (downstream.learning_rate, downstream.weight_decay) == (0.0001, 0.005)


def test_a_whole_number_may_stand_for_a_real_one_but_not_the_other_way(tmp_path: Path) -> None:
    assert math.isclose(one(tmp_path, edited("rate_mbps: 1}", "rate_mbps: 3}")).fleet.uplink.rate_mbps, 3.0)  # type: ignore[union-attr]
    assert faults(tmp_path, edited("vehicles: 2", "vehicles: 2.0")) == [
        "run.yaml:7: fleet.vehicles input should be a valid integer, got 2.0"
    ]


@pytest.mark.parametrize(("word", "shown"), [(".nan", "nan"), (".inf", "inf"), ("-.inf", "-inf"), ("1e999", "inf")])
def test_numbers_that_are_not_finite_are_refused(word: str, shown: str, tmp_path: Path) -> None:
    assert faults(tmp_path, edited("encode_watts: 5", f"encode_watts: {word}")) == [
        f"run.yaml:11: fleet.device.encode_watts input should be a finite number, got {shown}"
    ]


@pytest.mark.parametrize("word", ["true", "'5'", "null", "[]", "{}"])
def test_text_truth_and_nothing_are_no_numbers(word: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, edited("encode_watts: 5", f"encode_watts: {word}"))
    assert fault.startswith("run.yaml:11: fleet.device.encode_watts input should be a valid number")


def test_an_unknown_kind_lists_the_choices(tmp_path: Path) -> None:
    assert faults(tmp_path, edited("kind: constant", "kind: magic")) == [
        "run.yaml:8: fleet.uplink.kind must be one of 'constant', 'trace', 'two-state', got 'magic'"
    ]


def test_a_missing_kind_is_named(tmp_path: Path) -> None:
    assert faults(tmp_path, edited("kind: constant, ", "")) == ["run.yaml:8: fleet.uplink.kind is missing"]


def test_a_key_of_another_kind_is_unknown(tmp_path: Path) -> None:
    assert faults(tmp_path, edited("rate_mbps: 1", "rate_mbps: 1, sigma: 0.5")) == [
        "run.yaml:8: fleet.uplink.sigma is no key of a scenario; there are rate_mbps for kind constant"
    ]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("quality=101", "jpeg has no point quality=101: expected quality=N, N a whole number 1..100"),
        ("quality=10.5", "jpeg has no point quality=10.5: expected quality=N, N a whole number 1..100"),
        ("qp=30", "jpeg has no point qp=30: expected quality=N, N a whole number 1..100"),
    ],
)
def test_an_unknown_point_lists_the_choices(point: str, expected: str, tmp_path: Path) -> None:
    assert faults(tmp_path, edited("quality=10", point)) == [f"run.yaml:14: codecs[0] {expected}"]


def test_a_point_has_one_spelling(tmp_path: Path) -> None:
    assert one(tmp_path, edited("quality=10", "' quality = 1e1'")).codecs[0].points == ("quality=10",)


def test_without_points_the_ladder_is_taken(tmp_path: Path) -> None:
    (choice,) = one(tmp_path, edited(", points: [quality=10]", "")).codecs
    assert choice.points == ()
    assert tuple(way.rule for way in choice.ways) == still_or_clip_codec_named("jpeg").points


def test_a_codec_without_a_speed_is_refused(tmp_path: Path) -> None:
    text = edited("  - {name: jpeg, points: [quality=10]}", "  - {name: webp}\n  - {name: avif}")
    assert faults(tmp_path, text) == [
        "run.yaml:1: fleet.device lacks encode_mpx_per_s of avif; encode_mpx_per_s of webp: "
        "how fast the vehicle encodes must be given"
    ]


def test_an_arm_named_twice_is_refused(tmp_path: Path) -> None:
    text = edited("downstream:", "  - {name: jpeg, points: [quality=10]}\ndownstream:")
    assert faults(tmp_path, text) == ["run.yaml:1: codecs names jpeg:quality=10 twice: leave one out"]


def test_one_codec_may_send_in_several_ways(tmp_path: Path) -> None:
    speeds = "fleet.device.encode_mpx_per_s={jpeg: 30, h264: 20}"
    words = one(
        tmp_path,
        SMALL,
        speeds,
        "codecs=[{name: jpeg, points: [quality=10]}, {name: jpeg, points: [quality=10], every: 4}, "
        "{name: h264, points: [crf=30]}, {name: h264, points: [crf=30], clip_frames: 8, every: 4}]",
    )
    assert [arm.key for arm in arms_of(words)] == [
        "jpeg:quality=10",
        "jpeg:quality=10,every=4",
        "h264:crf=30,frames=16",
        "h264:crf=30,every=4,frames=8",
    ]


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("{name: jpeg, clip_frames: 8}", "clip_frames is for codecs of clips, jpeg codes stills"),
        ("{name: h264, policies: [{kind: link}]}", "policies choose a point for each still, h264 codes clips"),
        (
            "{name: h264, clip_frames: 16, every: 4}",
            "a clip takes 64 captured frames, every x clip_frames must divide 32",
        ),
        ("{name: h264, clip_frames: 12}", "clip_frames input should be 1, 2, 4, 8, 16 or 32"),
        ("{name: h264, points: [crf=99]}", "h264 has no point crf=99"),
        ("{name: jpeg, every: 0}", "every input should be greater than or equal to 1"),
    ],
)
def test_clips_that_cannot_be_sent_are_refused(codec: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SMALL)
    with pytest.raises(YamlFileError) as caught:
        load_scenario(path, ("fleet.device.encode_mpx_per_s={jpeg: 30, h264: 20}", f"codecs=[{codec}]"))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("codecs[0].points=[quality=5, quality=5.0]", "codecs[0].points names quality=5 more than once"),
        ("downstream.seeds=[1, 0, 1]", "downstream.seeds names 1 more than once"),
        ("downstream.setups=[CO, CO]", "downstream.setups names CO more than once"),
    ],
)
def test_what_would_be_counted_twice_is_refused(setting: str, expected: str, tmp_path: Path) -> None:
    assert faults(tmp_path, SMALL, setting) == [f"--set: {expected}"]


@pytest.mark.parametrize("setting", ["codecs=[]", "downstream.seeds=[]", "downstream.setups=[]", "cameras.domains=[]"])
def test_an_empty_list_is_refused_where_one_is_needed(setting: str, tmp_path: Path) -> None:
    key = setting.partition("=")[0]
    assert faults(tmp_path, SMALL, setting) == [
        f"--set: {key} tuple should have at least 1 item after validation, not 0"
    ]


def test_a_domain_may_come_again(tmp_path: Path) -> None:
    cameras = one(tmp_path, SMALL, "cameras.domains=[day, rain, day]").cameras
    assert isinstance(cameras, StreetCameras)
    assert cameras.domains == ("day", "rain", "day")


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_out_of_range_is_refused(seed: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, SMALL, f"downstream.seeds=[{seed}]")
    assert fault.startswith("--set: downstream.seeds[0] input should be ")
    assert fault.endswith(f", got {seed}")


@pytest.mark.parametrize("outage", ["[5, 5]", "[5, 4]"])
def test_an_outage_that_ends_before_it_begins_is_refused(outage: str, tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, SMALL, f"fleet.faults.outages_s=[[1, 2], {outage}]")
    assert fault.startswith("--set: fleet.faults.outages_s[1] must begin before it ends, got 5")


@pytest.mark.parametrize("left_out", ["masks", "test_images", "test_masks"])
def test_downstream_without_labels_to_train_and_test_on_is_refused(left_out: str, tmp_path: Path) -> None:
    given = [key for key in ("masks", "test_images", "test_masks") if key != left_out]
    cameras = "{kind: folder, images: a, " + ", ".join(f"{key}: {key}" for key in given) + "}"
    assert faults(tmp_path, SMALL, f"cameras={cameras}") == [
        "run.yaml:1: downstream needs labelled frames to train and to test on: give cameras.masks, cameras.test_images "
        "and cameras.test_masks, or leave downstream out"
    ]
    assert one(tmp_path, SMALL, f"cameras={cameras}", "downstream=null").downstream is None


def test_a_folder_with_all_labels_may_be_trained_on(tmp_path: Path) -> None:
    cameras = "{kind: folder, images: a, masks: b, test_images: c, test_masks: d}"
    assert one(tmp_path, SMALL, f"cameras={cameras}").downstream is not None


def test_videos_cannot_be_trained_on(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, SMALL, "cameras={kind: video, paths: [a.mp4]}")
    assert fault == "run.yaml:1: downstream needs labelled frames, and videos have none: leave downstream out"


POLICIES = "codecs=[{name: jpeg, points: [quality=5], policies: [%s]}]"


def test_a_codec_has_fixed_points_then_policies_each_with_a_name_of_its_own(tmp_path: Path) -> None:
    policies = (
        "{kind: target-bpp, bpp: 0.2}, {kind: link}, {kind: link, latency_s: 5}, "
        "{kind: budget, max_bpp: 1, joules_per_hour: 40.5}"
    )
    (choice,) = one(tmp_path, SMALL, POLICIES % policies).codecs
    assert [str(way) for way in choice.ways] == [
        *("quality=5", "target-bpp=0.2", "link", "link,latency_s=5", "budget,max_bpp=1,joules_per_hour=40.5")
    ]
    (alone,) = one(tmp_path, SMALL, "codecs=[{name: jpeg, policies: [{kind: link}]}]").codecs
    assert [str(way) for way in alone.ways] == ["link"]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("{kind: magic}", "codecs[0].policies[0].kind must be one of 'target-bpp', 'link', 'budget', got 'magic'"),
        ("{kind: target-bpp}", "codecs[0].policies[0].bpp is missing"),
        ("{kind: target-bpp, bpp: 0}", "codecs[0].policies[0].bpp input should be greater than 0, got 0"),
        ("{kind: link}, {kind: link}", "codecs[0].policies names link more than once"),
        ("{kind: link, latency_s: -1}", "codecs[0].policies[0].latency_s input should be greater than 0, got -1"),
    ],
)
def test_a_bad_policy_is_refused(policies: str, expected: str, tmp_path: Path) -> None:
    assert faults(tmp_path, SMALL, POLICIES % policies) == [f"--set: {expected}"]


GROUPED = re.sub(
    r"  vehicles: 2\n(.*)codecs:",
    """\
  groups:
    - name: a
      vehicles: 1
      uplink: {kind: constant, rate_mbps: 1}
      device: {encode_mpx_per_s: {jpeg: 30}, encode_watts: 5, radio_joules_per_mbit: 1}
    - name: b
      vehicles: 3
      uplink: {kind: two-state}
      device: {encode_mpx_per_s: {jpeg: 3}, encode_watts: 2, radio_joules_per_mbit: 1, duty: 0.5}
codecs:""",
    SMALL,
    flags=re.DOTALL,
)


def test_a_fleet_may_have_groups_and_vehicles_are_numbered_through_them(tmp_path: Path) -> None:
    fleet = one(tmp_path, GROUPED).fleet
    assert fleet.num_vehicles == 4
    assert [fleet.group_of(vehicle).name for vehicle in range(4)] == ["a", "b", "b", "b"]
    assert fleet.group_of(3).device.duty == 0.5
    for vehicle in (-1, 4):
        with pytest.raises(ValueError, match=f"no vehicle {vehicle}: the fleet has 4"):
            fleet.group_of(vehicle)


def test_vehicles_that_are_all_alike_are_one_group(tmp_path: Path) -> None:
    (everyone,) = one(tmp_path, SMALL).fleet.everyone
    assert (everyone.name, everyone.vehicles, everyone.device.encode_mpx_per_s) == ("all", 2, {"jpeg": 30})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("fleet.vehicles=3", "gives groups and also vehicles: each group has its own, leave those out"),
        ("fleet.groups[1].name=a", "names a more than once"),
        ("fleet.groups=[]", "lacks vehicles, uplink, device: give vehicles, uplink and device, or groups of them"),
    ],
)
def test_a_fleet_is_alike_or_grouped(setting: str, expected: str, tmp_path: Path) -> None:
    assert faults(tmp_path, GROUPED, setting)[0].endswith(f"fleet {expected}")


def test_networks_without_a_device_s_numbers_are_refused(tmp_path: Path) -> None:
    cae = "codecs=[{name: cae, points: [lambda=0.0067]}]"
    assert faults(tmp_path, SMALL, cae, "fleet.device.gmac_per_s=3") == [
        "run.yaml:1: fleet.device lacks joules_per_gmac for cae; memory_mb for cae: "
        "how fast the vehicle encodes must be given"
    ]
    said = ("fleet.device.gmac_per_s=3", "fleet.device.joules_per_gmac=1", "fleet.device.memory_mb=100")
    assert one(tmp_path, SMALL, cae, *said).fleet.everyone[0].device.gmac_per_s == 3
    assert one(tmp_path, SMALL, cae, "fleet.device.encode_mpx_per_s.cae=2").codecs[0].name == "cae"
    (fault,) = faults(tmp_path, GROUPED, cae)
    assert fault.startswith("run.yaml:1: device of fleet group 'a' lacks gmac_per_s for cae; joules_per_gmac for cae")


def test_a_grouped_scenario_with_policies_is_written_as_it_is_read(tmp_path: Path) -> None:
    scenario = one(tmp_path, GROUPED, POLICIES % "{kind: budget, max_bpp: 1}")
    (tmp_path / "again.yaml").write_text(dump_scenario(scenario))
    assert load_scenario(tmp_path / "again.yaml") == [scenario]


ADAPTING = "{codec: cae, point: lambda=0.0067, sharing: [federated], methods: [cawf], %s}"


@pytest.mark.parametrize(("words", "most"), [("quorum: 9", 3), ("quorum: 3, vehicles_per_round: 2", 2)])
def test_a_quorum_that_no_round_can_have_is_refused(words: str, most: int, tmp_path: Path) -> None:
    devices = ("fleet.device.gmac_per_s=10", "fleet.device.joules_per_gmac=0.3", "fleet.device.memory_mb=256")
    codecs = ("codecs=[{name: cae, points: [lambda=0.0067]}]", "fleet.vehicles=3", f"adaptation={ADAPTING % words}")
    found = faults(tmp_path, SMALL, *devices, *codecs)
    assert f"no more than {most} vehicles take part in a round" in " ".join(found)


def test_a_restorer_that_learns_from_a_segmenter_needs_one(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        SMALL,
        "restoration={restorers: [task]}",
        "downstream=null",
        "cameras.reference={frames_per_vehicle: 4}",
    )
    assert "restoration.restorers names task, which learns what a segmenter sees: give downstream" in " ".join(found)


def test_an_adapted_arm_can_be_restored_by_its_name(tmp_path: Path) -> None:
    """By restorers that learn its codec without an adapter, which the reference frames have none for."""
    settings = (
        "fleet.device.gmac_per_s=10",
        "fleet.device.joules_per_gmac=0.3",
        "fleet.device.memory_mb=256",
        "fleet.vehicles=3",
        "cameras.domains=[day, dusk]",
        "cameras.reference={frames_per_vehicle: 4}",
        "codecs=[{name: jpeg, points: [quality=10]}, {name: cae, points: [lambda=0.0009, lambda=0.0067]}]",
        f"adaptation={ADAPTING % 'quorum: 2'}",
        "downstream.setups=[CO, RO]",
    )
    adapted = "cae+federated:lambda=0.0009"
    scenario = one(tmp_path, SMALL, *settings, f"restoration={{arms: ['{adapted}']}}")
    plan = Plan(scenario)
    assert [arm.key for arm in plan.arms if plan.restorers_of(arm)] == [adapted]
    assert plan.learned() == [Arm("cae", "lambda=0.0009")]
    everything = ", ".join(arm.key for arm in plan.arms)
    assert adapted in everything
    (found,) = faults(tmp_path, SMALL, *settings, "restoration={arms: ['cae+local:lambda=0.0009']}")
    assert found.endswith(f"restoration.arms names 'cae+local:lambda=0.0009': choose from {everything}")


@pytest.mark.parametrize(("left_out", "sharing"), [("gmac_per_s", "local"), ("joules_per_gmac", "central")])
def test_a_device_that_adapts_says_what_computing_takes(left_out: str, sharing: str, tmp_path: Path) -> None:
    """One whose encoder has a speed of its own needs no other number to encode."""
    numbers = {"gmac_per_s": "10", "joules_per_gmac": "0.3", "encode_mpx_per_s.cae": "5"}
    device = [f"fleet.device.{name}={value}" for name, value in numbers.items() if name != left_out]
    words = f"quorum: 1, server_gmac_per_s: 100, sharing: [{sharing}]"
    adaptation = f"adaptation={{codec: cae, point: lambda=0.0067, methods: [cawf], {words}}}"
    found = faults(tmp_path, SMALL, *device, "codecs=[{name: cae, points: [lambda=0.0067]}]", adaptation)
    assert f"give its {left_out}" in " ".join(found)


ONE_DOMAIN = [
    ("{kind: street, frames_per_vehicle: 4, test_frames: 2, domains: [day, day]}", "cameras.domains names day alone"),
    ("{kind: folder, images: a, test_images: b}", "sort them into two or more subfolders of cameras.images"),
    ("{kind: folder, images: a, test_images: b, domains: [day]}", "and name those in cameras.domains"),
    ("{kind: folder, images: a, domains: [day, dusk]}", "give cameras.test_images or cameras.reference"),
    ("{kind: kitti, path: a}", "nothing tells the domains of kitti"),
    ("{kind: bdd100k, path: a, domains: [day, night]}", "nothing tells the domains of bdd100k"),
    ("{kind: camvid, path: a, domains: [dusk]}", "cameras.domains names dusk alone"),
    ("{kind: video, paths: [a.mp4]}", "a video is one drive in one domain"),
]
ADAPTING_FLEET = (
    "fleet.device={encode_watts: 5, radio_joules_per_mbit: 1, gmac_per_s: 9, joules_per_gmac: 1, memory_mb: 256}",
    "codecs=[{name: cae, points: [lambda=0.0067]}]",
    "downstream=null",
    "adaptation={codec: cae, point: lambda=0.0067}",
)


@pytest.mark.parametrize(("cameras", "expected"), ONE_DOMAIN)
def test_an_adaptation_without_a_second_domain_or_frames_to_measure_on_is_refused(
    cameras: str, expected: str, tmp_path: Path
) -> None:
    found = faults(tmp_path, SMALL, *ADAPTING_FLEET, f"cameras={cameras}")
    assert expected in " ".join(found)


@pytest.mark.parametrize(
    "cameras",
    [
        "{kind: camvid, path: a}",
        "{kind: cityscapes, path: a}",
        "{kind: folder, images: a, reference: {images: b}, domains: [day, dusk]}",
    ],
)
def test_an_adaptation_where_a_second_domain_may_come_is_not_refused(cameras: str, tmp_path: Path) -> None:
    assert one(tmp_path, SMALL, *ADAPTING_FLEET, f"cameras={cameras}").adaptation
