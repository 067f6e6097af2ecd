from pathlib import Path

import pytest

from roadbits.downstream.setups import Setup
from roadbits.fleet.plan import MeasuringJob, Plan, TrainingJob, shown_positions
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.vehicle import Arm

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"


def plan(*settings: str) -> Plan:
    (scenario,) = load_scenario(SMOKE, settings)
    return Plan(scenario)


def keys(of: Plan) -> dict[str, str]:
    """Return the key of every stage, under a name that tells what it is."""
    found = {"collect": of.collect_key()}
    found |= {f"originals {split}": of.originals_key(split) for split in ("train", "test")}
    found |= {f"decode {arm.key}": of.decode_key(arm) for arm in of.arms}
    found |= {f"on board {arm.key}": of.on_board_key(arm) for arm in of.tested_arms()}
    found |= {f"train {job}": of.train_key(job) for job in of.training_jobs()}
    return found | {f"measure {job}": of.measure_key(job) for job in of.measuring_jobs()}


def changed(*settings: str) -> set[str]:
    """Return which stages' keys a setting changes, adds or removes, by the first word of their names."""
    before, after = keys(plan()), keys(plan(*settings))
    names = {name for name in before | after if before.get(name) != after.get(name)}
    return {name.split()[0] + (" " + name.split()[1] if name.startswith("originals") else "") for name in names}


@pytest.mark.parametrize(
    ("setups", "trainings", "measurements"),
    [
        # For each of 2 seeds: O is trained once, C once per each of 3 arms; OO is measured once, the others per arm.
        ("[OO, CO, CC, OC]", 2 * (1 + 3), 2 * (1 + 3 + 3 + 3)),
        ("[OO]", 2, 2),
        ("[CO]", 6, 6),
        ("[CC]", 6, 6),
        ("[OC]", 2, 6),
        ("[OO, CO]", 8, 8),
        ("[CO, CC]", 6, 12),
        ("[OO, OC]", 2, 8),
    ],
)
def test_every_training_and_measurement_is_made_once(setups: str, trainings: int, measurements: int) -> None:
    of = plan(f"downstream.setups={setups}")
    assert len(of.arms) == 3
    assert len(of.training_jobs()) == len(set(of.training_jobs())) == trainings
    assert len(of.measuring_jobs()) == len(set(of.measuring_jobs())) == measurements
    assert {job.training for job in of.measuring_jobs()} == set(of.training_jobs())


POLICY = "codecs[1]={name: webp, policies: [{kind: link}]}"


def test_a_policy_is_an_arm_and_its_test_frames_depend_on_its_drives() -> None:
    of, moved = plan(POLICY), plan(POLICY, "fleet.deadline_s=5")
    arms = [Arm("jpeg", "quality=10"), Arm("jpeg", "quality=60"), Arm("webp", "link")]
    assert list(of.arms) == arms
    assert [str(of.fixed_point(arm)) for arm in arms] == ["quality=10", "quality=60", "None"]
    assert [of.on_board_key(arm) == moved.on_board_key(arm) for arm in arms] == [True, True, False]


def test_no_two_stages_share_a_key() -> None:
    found = keys(plan())
    assert len(found) == len(set(found.values())) == 1 + 2 + 3 + 3 + 8 + 20


def test_a_setup_names_what_trains_and_what_tests() -> None:
    arm = Arm("jpeg", "quality=10")
    jobs = {setup: plan().jobs_of(setup, arm, 5)[0] for setup in (Setup.OO, Setup.CO, Setup.CC, Setup.OC)}
    assert jobs == {
        Setup.OO: MeasuringJob(TrainingJob(None, 5), None),
        Setup.CO: MeasuringJob(TrainingJob(arm, 5), None),
        Setup.CC: MeasuringJob(TrainingJob(arm, 5), arm),
        Setup.OC: MeasuringJob(TrainingJob(None, 5), arm),
    }


def test_only_setups_that_test_on_compressed_frames_compress_test_frames() -> None:
    assert plan("downstream.setups=[OO, CO]").tested_arms() == []
    assert plan("downstream.setups=[OO, OC]").tested_arms() == list(plan().arms)


def test_without_downstream_nothing_is_trained() -> None:
    of = plan("downstream=null")
    assert (of.setups, of.training_jobs(), of.measuring_jobs(), of.tested_arms()) == ((), [], [], [])


def test_more_seeds_leave_every_other_stage_as_it_is() -> None:
    before, after = keys(plan()), keys(plan("downstream.seeds=[0, 1, 2]"))
    assert before.items() <= after.items()
    new = set(after) - set(before)
    assert len(new) == 4 + 10
    assert all("seed=2" in name for name in new)


def test_fewer_setups_leave_the_other_stages_as_they_are() -> None:
    assert keys(plan("downstream.setups=[CO]")).items() <= keys(plan()).items()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("name=other", set()),
        ("question=Why?", set()),
        ("downstream.steps=5", {"train", "measure"}),
        ("downstream.threads=2", {"train", "measure"}),
        ("fleet.deadline_s=5", {"collect", "decode", "train", "measure"}),
        ("fleet.uplink.median_mbps=5", {"collect", "decode", "train", "measure"}),
        ("fleet.vehicles=4", {"collect", "originals train", "decode", "train", "measure"}),
        ("seed=8", {"collect", "originals train", "originals test", "decode", "on", "train", "measure"}),
        ("cameras.height=128", {"collect", "originals train", "originals test", "decode", "on", "train", "measure"}),
    ],
)
def test_a_change_touches_what_depends_on_it_and_nothing_else(setting: str, expected: set[str]) -> None:
    assert changed(setting) == expected


MORE = (
    "codecs=[{name: jpeg, points: [quality=10, quality=60]}, {name: webp, points: [quality=20, quality=40]}, "
    "{name: avif, points: [quality=20]}]",
    "fleet.device.encode_mpx_per_s={jpeg: 30, webp: 6, avif: 1}",
)


def test_arms_that_are_added_leave_what_the_others_send_as_it_is() -> None:
    before, after = keys(plan()), keys(plan(*MORE))
    assert len(plan(*MORE).arms) == len(plan().arms) + 2
    assert {name for name in before if before[name] != after[name]} == {"collect"}


def test_an_arm_whose_luck_or_device_becomes_another_sends_anew() -> None:
    first = "codecs=[{name: webp, points: [quality=20]}, {name: jpeg, points: [quality=10, quality=60]}]"
    faster = "fleet.device.encode_mpx_per_s={jpeg: 30, webp: 9}"
    faults = ("fleet.faults={}", "fleet.faults={loss_probability: 0.1}")
    arms = plan().arms
    for settings, others, moved in (
        ((faults[0],), (first,), set()),
        ((faults[1],), (first,), set(arms)),
        ((), (faster,), {arm for arm in arms if arm.codec == "webp"}),
    ):
        before, after = plan(*settings), plan(*settings, *others)
        assert {arm for arm in arms if before.decode_key(arm) != after.decode_key(arm)} == moved


def test_another_collection_leaves_what_was_trained_on_originals() -> None:
    before, after = keys(plan()), keys(plan("fleet.deadline_s=5"))
    kept = {name for name in before if before[name] == after[name]}
    assert {f"train {TrainingJob(None, seed)}" for seed in (0, 1)} <= kept
    assert {f"measure {plan().jobs_of(Setup.OC, arm, 0)[0]}" for arm in plan().arms} <= kept


def test_a_plan_tells_what_it_comes_to() -> None:
    assert list(plan().describe()) == [
        "collect   3 vehicles x 3 arms: jpeg:quality=10, jpeg:quality=60, webp:quality=20",
        "train     8 segmenters x 4 steps of 2 crops 96x128, FPN on tu-tf_efficientnet_lite0",
        "measure   20 combinations: OO CO CC OC, seeds [0, 1]",
    ]
    assert list(plan("downstream=null").describe())[1] == "downstream: none; the run ends with rates and distortions"


@pytest.mark.parametrize(
    ("frames", "expected"), [(0, ()), (1, (0,)), (2, (0, 1)), (3, (0, 1, 2)), (6, (1, 3, 5)), (101, (16, 50, 84))]
)
def test_the_frames_shown_are_spaced_evenly(frames: int, expected: tuple[int, ...]) -> None:
    assert shown_positions(frames) == expected
