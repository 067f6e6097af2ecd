"""The section that tells what adaptation saves and what it forgets."""

from dataclasses import replace
from pathlib import Path

import pytest

from roadbits.fleet.report.adaptation import adaptation_section, adaptation_sentence
from roadbits.fleet.report.measured import MeasuredRun, measured_arms
from roadbits.fleet.results import AdaptationCurve, AdaptationRow, Results, SharingNote

ROUND = {
    "number": 1,
    "begin_s": 60.0,
    "end_s": 70.0,
    "accepted": [0],
    "refused": {"1": "too late"},
    "has_quorum": False,
}


@pytest.fixture
def run(results: Results, adapted: AdaptationRow) -> MeasuredRun:
    tuned = replace(
        adapted,
        method="finetune",
        sharing="pooled",
        bd_rate_target=-1.7,
        bd_rate_source=9.0,
        bd_rate_on={"day": 9.0, "dusk": -1.7},
        old_payloads_bit_exact=0.0,
        old_payloads_change_db=0.0,
        equipped=0,
        break_even_frames=None,
    )
    noted = replace(
        results,
        adaptation=[
            adapted,
            replace(adapted, seed=1, bd_rate_target=-2.5, bd_rate_on={"day": 0.0, "dusk": -2.5}),
            tuned,
        ],
        adapter_sharing=[SharingNote("federated", "dusk", {"0": 50.0, "1": 55.0}, [2], [ROUND], {"0": 80.5})],
        adaptation_curves=[
            AdaptationCurve("source", "dusk", [0.1, 0.4], [28.0, 33.0]),
            AdaptationCurve("cawf, federated", "dusk", [0.08, 0.33], [28.0, 33.0]),
        ],
    )
    return MeasuredRun("tiny", Path("tiny"), noted, measured_arms(noted))


def test_seeds_are_told_as_a_mean_and_a_range(run: MeasuredRun) -> None:
    assert "−2.0 (−2.5 … −1.5)" in adaptation_section(run)


def test_what_was_forgotten_is_shaded_and_what_was_not_is_not(run: MeasuredRun) -> None:
    page = adaptation_section(run)
    assert 'style="--shade:45%" data-shaded>+9.0<' in page
    assert ">0.0 (0.0 … 0.0)<" in page
    assert page.count("data-shaded") == 1


def test_what_went_wrong_in_a_round_is_said(run: MeasuredRun) -> None:
    page = adaptation_section(run)
    assert "Round 1 (dusk): vehicle 1 left out: too late." in page
    assert "Round 1 (dusk) had no quorum" in page
    assert "Vehicle 2 came into dusk and noticed nothing." in page


def test_the_headline_names_the_best_that_vehicles_really_had(run: MeasuredRun) -> None:
    sentence = adaptation_sentence(run)
    assert sentence.startswith("Adapted to dusk (federated), the codec takes 2.0 ± 0.5 % fewer bits at equal PSNR")
    assert "as many as ever where it served before; 100 % of old payloads" in sentence


def test_a_run_in_which_no_vehicle_was_equipped_has_no_headline(run: MeasuredRun) -> None:
    pooled = [row for row in run.results.adaptation if row.sharing == "pooled"]
    assert not adaptation_sentence(replace(run, results=replace(run.results, adaptation=pooled)))
