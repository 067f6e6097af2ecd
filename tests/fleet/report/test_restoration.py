import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadbits.fleet.report import gallery, page, restoration
from roadbits.fleet.report.measured import measured_arms
from roadbits.fleet.report.page import write_report
from roadbits.fleet.report.strips import MAX_PICTURE_BYTES, MAX_RESTORED_BYTES, Gallery, gallery_of
from roadbits.fleet.results import DownstreamRow, RestorationRow, Results
from roadbits.fleet.vehicle import Arm

Save = Callable[..., Path]
ARM = Arm("jpeg", "quality=10")


def row(treatment: str, miou: float, **others: Any) -> RestorationRow:
    plain = RestorationRow(
        codec="jpeg",
        point="quality=10",
        treatment=treatment,
        bpp=0.25,
        psnr_db=27.0,
        ms_ssim=0.91,
        feature_distance=0.7,
        miou=miou,
        miou_low=miou - 0.02,
        miou_high=miou + 0.03,
        miou_by_seed={"0": miou - 0.01, "1": miou + 0.01},
        gain=miou - 0.41,
        gain_low=miou - 0.43,
        gain_high=miou - 0.40,
        gap_closed=(miou - 0.41) / 0.3,
        gap_low=0.1,
        gap_high=0.9,
        reference_frames=32,
        taken_for={"sky": {"sky": 0.9, "car": 0.1}, "car": {"sky": 0.5, "car": 0.5}},
    )
    return replace(plain, **others)


REMEDY = {"psnr_db": None, "ms_ssim": None, "feature_distance": None}


@pytest.fixture
def restored(results: Results) -> Results:
    """The three arms, one of them restored by two networks, with a remedy beside them."""
    rows = [
        DownstreamRow("jpeg", "quality=10", setup, seed, 0.25, miou, {"sky": miou}, ["train"], kind, 90, 4, None)
        for setup in ("RO", "RC")
        for kind, miou in (("mse", 0.44), ("gan", 0.50))
        for seed in (0, 1)
    ]
    treated = [row("none", 0.41, reference_frames=0), row("mse", 0.44, psnr_db=28.5)]
    treated.append(row("gan", 0.50, steps=2200, best_step=1800))
    return replace(results, downstream=[*results.downstream, *rows], restoration=treated)


def text_of(results: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch, restorers: Sequence[str] = ()) -> str:
    monkeypatch.setattr(page, "_plotly", lambda: "/* plotly.js */")
    run = save_run(results, stages=True, restorers=restorers)
    write_report([run], run / "report.html")
    return (run / "report.html").read_text()


def test_a_picture_tells_what_the_best_restorer_saves_and_invents(
    restored: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, mse, gan = restored.restoration
    better = {"sky": {"sky": 0.95, "car": 0.05}, "car": {"sky": 0.2, "car": 0.8}}
    text = text_of(replace(restored, restoration=[plain, mse, replace(gan, taken_for=better)]), save_run, monkeypatch)
    assert "gan less none" in text
    found = re.search(r'id="confusion-0-figure">(.*?)</script>', text)
    assert found
    (picture,) = json.loads(found[1])["data"]
    assert (picture["y"], picture["x"]) == (["sky", "car"], ["sky", "car"])
    assert np.ravel(picture["z"]) == pytest.approx([5, -5, -30, 30])


def test_every_treatment_has_its_row_and_its_marker(
    restored: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(restored, save_run, monkeypatch)
    section = re.search(r'<section id="restoration">.*?</section>', text, re.DOTALL)
    assert section
    assert "50.0 (48.0 … 53.0)" in section[0]
    assert "+9.0 (+7.0 … +10.0)" in section[0]
    assert "30.0 (10.0 … 90.0)" in section[0]
    assert '<td class="best">28.50</td>' in section[0]
    assert section[0].count(">1800 of 2200<") == 1
    found = re.search(r'id="restoration-0-figure">(.*?)</script>', section[0])
    assert found
    (trace,) = json.loads(found[1])["data"]
    assert trace["y"] == ["none", "mse", "gan"]
    assert trace["x"] == pytest.approx([41, 44, 50])


def test_without_restoration_there_is_no_section(
    results: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert '<section id="restoration">' not in text_of(results, save_run, monkeypatch)


def test_ro_and_rc_are_those_of_the_best_restorer(restored: Results) -> None:
    arm = measured_arms(restored)[0]
    assert arm.restorer == "gan"
    assert (arm.miou["RO"].mean, arm.miou["RC"].mean) == pytest.approx((0.50, 0.50))
    assert measured_arms(restored)[1].restorer is None


def test_the_headline_names_the_best_restorer_and_a_remedy_that_beats_it(
    restored: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = re.sub(r"</?b>", "", text_of(restored, save_run, monkeypatch))
    assert (
        "Restored by gan, jpeg quality=10 gains +9.0 points (+7.0 to +10.0) of mIoU in the car, 30 % of what it had "
        "lost (10 to 90 %)." in text
    )
    better = replace(restored, scenario="better", restoration=[*restored.restoration, row("references", 0.6, **REMEDY)])
    run = save_run(better, name="better", stages=True)
    write_report([run], run / "report.html")
    told = re.sub(r"</?b>", "", (run / "report.html").read_text())
    assert "(10 to 90 %) and, without a restorer, references +19.0 points (+17.0 to +20.0)." in told


def test_the_strips_show_what_the_best_restorer_came_to_and_name_it(
    restored: Results, save_run: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text_of(restored, save_run, monkeypatch, restorers=("mse", "gan"))
    found = re.search(r'id="strips-0-data">(.*?)</script>', text)
    assert found
    shown = json.loads(found[1])
    best = gallery_of(tmp_path / "run", {ARM: 0.25}, {ARM: "gan"}, 8, 10**9).strips
    assert shown["setups"] == ["OO", "CO", "RO", "CC", "OC", "RC"]
    for strip, wanted in zip(shown["strips"], best, strict=True):
        restored_arm, *_, plain = strip["arms"]
        assert restored_arm["predictions"] == wanted.arms[ARM].predictions
        assert restored_arm["captions"]["RO"] == "prediction of RO by gan"
        assert restored_arm["captions"]["OO"] == "prediction of OO"
        assert plain["captions"]["RC"] == "no prediction of RC"


@pytest.mark.parametrize(
    ("max_bytes", "frames", "arms", "note"),
    [
        (10**7, 2, 2, ""),
        (250_000, 1, 2, ""),
        (150_000, 1, 1, "1 of 2 restored arms are left out of these pictures"),
        (1, 1, 1, "1 of 2 restored arms are left out of these pictures"),
    ],
)
def test_pictures_of_restored_frames_have_a_bound(
    max_bytes: int,
    frames: int,
    arms: int,
    note: str,
    restored: Results,
    save_run: Save,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restoration, "MAX_RESTORED_BYTES", max_bytes)
    text = text_of(restored, save_run, monkeypatch, restorers=("mse", "gan"))
    section = re.search(r'<section id="restoration">.*?</section>', text, re.DOTALL)
    assert section
    captions = [*("decoded", "mse", "gan", "original")] * frames * arms
    found = re.findall(r"<figcaption>(?:jpeg:quality=\d+, )?(\w+)</figcaption>", section[0])
    assert found == captions
    assert len(re.findall(r"data:image/webp", section[0])) == len(captions)
    assert ("to keep the page small" in section[0]) == bool(note)
    assert note in section[0]


@pytest.mark.parametrize("is_restored", [False, True])
def test_what_restored_frames_may_take_is_left_to_them(
    is_restored: bool, restored: Results, results: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = []

    def watched(*arguments: Any) -> Gallery:
        budgets.append(arguments[-1])
        return gallery_of(*arguments)

    monkeypatch.setattr(gallery, "gallery_of", watched)
    text_of(restored if is_restored else results, save_run, monkeypatch)
    assert budgets == [MAX_PICTURE_BYTES - (MAX_RESTORED_BYTES if is_restored else 0)]


def test_the_headline_says_what_intervals_of_a_single_seed_leave_out(
    restored: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "intervals of 90 %, of test frames alone"
    assert told not in text_of(restored, save_run, monkeypatch)
    single = replace(restored, scenario="single", downstream=[row for row in restored.downstream if row.seed == 0])
    run = save_run(single, name="single", stages=True)
    write_report([run], run / "report.html")
    assert told in (run / "report.html").read_text()


def test_a_run_without_stages_has_the_section_without_pictures(restored: Results, save_run: Save) -> None:
    run = save_run(restored)
    write_report([run], run / "report.html")
    text = (run / "report.html").read_text()
    assert '<section id="restoration">' in text
