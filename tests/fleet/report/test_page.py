import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roadbits.fleet.report import page
from roadbits.fleet.report.page import write_report
from roadbits.fleet.results import AdaptationRow, Results, ResultsError

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def without_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the 4.8 MB of plotly.js, so that what the pages say can be searched."""
    monkeypatch.setattr(page, "_plotly", lambda: "/* plotly.js */")


def _page(*folders: Path) -> str:
    out = folders[0].parent / "pages" / "report.html"
    write_report(folders, out)
    return out.read_text()


def _data(text: str, identity: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{identity}">(.*?)</script>', text)
    assert found, identity
    return json.loads(found[1])


def _is_self_contained(text: str) -> bool:
    loads = re.findall(r"""(?:\b(?:src|href)\s*=\s*["']|url\(|@import\s)(?!#|data:)""", text)
    return not loads and not re.search(r"https?:|//cdn", text)


def test_a_browser_fetches_nothing(results: Results, save_run: Save) -> None:
    text = _page(save_run(results, stages=True))
    assert _is_self_contained(text)
    assert "Content-Security-Policy\" content=\"default-src 'none';" in text


def test_plotly_is_in_the_page_once_and_cannot_end_its_element(
    results: Results, save_run: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    text = _page(save_run(results))
    assert text.count("plotly.js v") == 1
    assert "</script" not in page._plotly()
    assert len(text) < 15_000_000


def test_headline_says_what_a_bit_buys(results: Results, save_run: Save) -> None:
    text = re.sub(r"</?b>", "", _page(save_run(results)))
    assert "On originals throughout (OO) the segmenter reaches 71.0 ± 1.0 %." in text
    assert "CO 61.0 ± 1.0 % with webp quality=10 (0.200 bpp)" in text
    assert "The cheapest, webp quality=10 (0.200 bpp), is 10.0 ± 0.0 points below OO in CO." in text
    assert "No arm comes within one point of OO." in text
    assert "5.0 to 5.0 MB travel per vehicle-hour. (± is half the range over seeds.)" in text
    assert results.digest in text
    assert "scenario.yaml --out NEW_DIR" in text


def test_an_arm_above_the_ideal_is_said_to_be(results: Results, save_run: Save) -> None:
    better = [replace(row, miou=row.miou + 0.4) if row.setup == "CO" else row for row in results.downstream]
    text = re.sub(r"</?b>", "", _page(save_run(replace(results, downstream=better))))
    assert "The cheapest, webp quality=10 (0.200 bpp), is 30.0 ± 0.0 points above OO in CO." in text


def test_charts_hold_means_and_the_range_over_seeds(results: Results, save_run: Save) -> None:
    figure = _data(_page(save_run(results)), "miou-CO-figure")
    jpeg = figure["data"][0]
    assert jpeg["x"] == [0.25, 0.75]
    assert jpeg["y"] == pytest.approx([41.0, 51.0])
    assert jpeg["error_y"]["array"] == pytest.approx([1.0, 1.0])
    assert "seed 1: 42.0" in jpeg["customdata"][0]
    band = next(shape for shape in figure["layout"]["shapes"] if shape["type"] == "rect")
    assert (band["y0"], band["y1"]) == (pytest.approx(70.0), pytest.approx(72.0))


def slim(results: Results, **changes: Any) -> Results:
    """Add a codec of two widths, whose encoder has multiply-accumulates, to the uploads."""
    points = [(width, 0.01 * rate) for width in (48, 96) for rate in (1, 2)]
    uploads = [
        replace(
            results.uploads[0],
            codec="slimcae",
            point=f"width={width},lambda={lmbda}",
            bpp=20 * lmbda,
            encode_gmac=0.5 * width,
            encode_memory_bytes=45_600_000,
            points_used={f"width={width},lambda={lmbda}": 100},
        )
        for width, lmbda in points
    ]
    return replace(results, uploads=[*results.uploads, *uploads], **changes)


def test_compute_is_drawn_over_rate_by_width_and_coloured_by_miou(results: Results, save_run: Save) -> None:
    rows = [
        replace(results.downstream[0], codec="slimcae", point=f"width={width},lambda={lmbda}", setup="CO", miou=0.5)
        for width in (48, 96)
        for lmbda in (0.01, 0.02)
    ]
    text = _page(save_run(slim(results, downstream=[*results.downstream, *rows])))
    narrow, wide = _data(text, "compute-rate-figure")["data"]
    assert narrow["x"] == pytest.approx([0.2, 0.4])
    assert narrow["y"] == pytest.approx([0.24, 0.24])
    assert wide["y"] == pytest.approx([0.48, 0.48])
    assert wide["marker"]["color"] == pytest.approx([50.0, 50.0])
    assert "0.48 GMAC per encoded frame" in wide["customdata"][0]
    assert "Codecs without networks have none" in text
    assert text.count("<td>45.6</td>") == 4


def test_compute_without_segmentation_is_coloured_by_psnr_and_without_networks_not_drawn(
    results: Results, save_run: Save
) -> None:
    text = _page(save_run(slim(results, downstream=[])))
    assert _data(text, "compute-rate-figure")["data"][0]["marker"]["color"] == pytest.approx([27.125, 27.125])
    assert "compute-rate-figure" not in _page(save_run(results, "legacy"))


def test_compute_of_runs_with_different_setups_is_coloured_by_what_all_have(results: Results, save_run: Save) -> None:
    both = slim(results)
    rows = [
        replace(results.downstream[0], codec="slimcae", point=row.point, setup="CO", miou=0.5)
        for row in both.uploads
        if row.codec == "slimcae"
    ]
    only = [row for row in both.uploads if row.codec == "slimcae"]
    measured = replace(both, uploads=only, downstream=rows)
    text = _page(save_run(measured, "measured"), save_run(replace(both, uploads=only, downstream=[]), "unmeasured"))
    figure = _data(text, "compute-rate-figure")
    assert len(figure["data"]) == 4
    assert {value for trace in figure["data"] for value in trace["marker"]["color"]} == {27.125}
    assert "Codecs without networks have none" not in text


def test_tables_hold_decomposition_deliveries_and_classes(results: Results, save_run: Save) -> None:
    text = _page(save_run(results))
    for cell in ("+25.0", "+5.0", "41.0 ± 1.0", "0.75", "3.50", "0.50", "2.500"):
        assert f">{cell}</td>" in text, cell
    assert '<td class="text">train</td><td>–</td>' in text


def test_bd_rates_are_told_or_why_there_are_none(results: Results, save_run: Save) -> None:
    text = _page(save_run(results))
    assert "too few points" in text
    uploads = [replace(row, bpp=row.bpp * (1 + k), psnr_db=27 + k) for row in results.uploads for k in (0, 1)]
    codecs = [replace(row, point=f"quality={k}") for k, row in enumerate(uploads)]
    text = _page(save_run(replace(results, uploads=codecs, downstream=[]), "more"))
    assert re.search(r'<td class="text">webp</td><td>−\d+\.\d</td>', text)


def test_without_jpeg_there_are_no_bd_rates(results: Results, save_run: Save) -> None:
    webp = [row for row in results.uploads if row.codec == "webp"]
    assert "no run has both" in _page(save_run(replace(results, uploads=webp)))


def test_text_from_results_is_escaped(results: Results, adapted: AdaptationRow, save_run: Save) -> None:
    evil = "<img src=x onerror=alert(1)>"
    uploads = [replace(row, point=row.point + evil) for row in results.uploads]
    downstream = [
        replace(row, point=row.point + evil, per_class_iou={evil: row.miou}, absent=[evil + "2"])
        for row in results.downstream
    ]
    noted = Results(
        evil,
        7,
        uploads,
        downstream,
        [replace(adapted, method=evil, sharing=evil, domain=evil, bd_rate_on={evil: 0.0})],
        [evil],
        {evil: 1.0},
        evil,
    )
    text = _page(save_run(noted))
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "&lt;img" in _data(text, "miou-CO-figure")["data"][0]["customdata"][0]


def test_several_runs_share_charts_and_each_has_its_name(results: Results, save_run: Save) -> None:
    first, second = save_run(results, "first"), save_run(replace(results, scenario="other"), "second")
    text = _page(first, second)
    assert "2 runs compared" in text
    names = [trace["name"] for trace in _data(text, "miou-CC-figure")["data"]]
    assert names == ["tiny · jpeg", "tiny · webp", "other · jpeg", "other · webp"]
    assert '<td class="text">other</td>' in text


def test_two_runs_of_one_scenario_are_told_apart_by_their_folders(results: Results, save_run: Save) -> None:
    text = _page(save_run(results, "first"), save_run(results, "second"))
    assert "tiny (first)" in text
    assert "tiny (second)" in text


def test_a_run_without_downstream_has_rates_and_deliveries(results: Results, save_run: Save) -> None:
    text = _page(save_run(replace(results, downstream=[]), stages=True, downstream=False))
    assert "Rates and distortions only" in text
    assert 'id="miou"' not in text
    assert _data(text, "rate-psnr-figure")["data"][0]["y"] == [27.125, 27.125]
    assert len(_data(text, "strips-0-data")["strips"]) == 3


def test_a_single_seed_point_and_setup_give_a_page(results: Results, save_run: Save) -> None:
    single = replace(results, uploads=results.uploads[:1], downstream=results.downstream[:1])
    text = _page(save_run(single))
    assert "70.0 %" in text
    assert 'id="miou"' not in text
    assert ">70.0</td>" in text


def test_a_fleet_that_delivered_nothing_gives_a_page(results: Results, save_run: Save) -> None:
    silent = [replace(row, delivered=0, bpp=0.0, bytes=0, vehicle_hours=0.0) for row in results.uploads]
    text = _page(save_run(replace(results, uploads=silent, downstream=[])))
    assert "Nothing travelled" in text


def test_late_fleets_have_a_rate_but_no_distortion(results: Results, save_run: Save) -> None:
    late = [replace(row, delivered=0, late=90, psnr_db=0.0) for row in results.uploads]
    text = _page(save_run(replace(results, uploads=late, downstream=[])))
    assert "No arm delivered a frame." in text
    assert _data(text, "rate-psnr-figure")["data"] == []


def test_strips_hold_every_arm_and_setup(results: Results, save_run: Save) -> None:
    text = _page(save_run(results, stages=True))
    data = _data(text, "strips-0-data")
    assert data["setups"] == ["OO", "CO", "CC", "OC"]
    strip = data["strips"][0]
    assert all(strip[name].startswith("data:image/webp;base64,") for name in ("original", "label", "ideal"))
    assert [arm["caption"].split(" · ")[0] for arm in strip["arms"]] == [
        "jpeg quality=10",
        "jpeg quality=40",
        "webp quality=10",
    ]
    assert strip["arms"][0]["caption"].endswith("mean 0.500 bpp")


def test_a_run_whose_stages_were_deleted_gives_a_page_that_says_so(results: Results, save_run: Save) -> None:
    folder = save_run(results, stages=True)
    shutil.rmtree(folder / "stages")
    assert "No frames to show: the stage with the original test frames is gone." in _page(folder)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="cannot be read"):
        write_report([tmp_path], tmp_path / "report.html")


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one or more"):
        write_report([], tmp_path / "report.html")


def test_runs_on_other_data_are_warned_of(results: Results, save_run: Save) -> None:
    """The generated world beside real frames: their numbers say nothing of each other."""
    alike, also, other = (save_run(replace(results, scenario=name), name=name) for name in ("a", "b", "c"))
    assert "neither rates nor mIoU compare" not in _page(alike, also)
    text = (other / "scenario.yaml").read_text().replace("kind: street", "kind: camvid\n  path: somewhere")
    (other / "scenario.yaml").write_text(text)
    assert "neither rates nor mIoU compare (a: street; c: camvid, somewhere)" in _page(alike, also, other)
