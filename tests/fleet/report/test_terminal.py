import io
from dataclasses import replace

from rich.console import Console

from roadbits.fleet.report.terminal import print_results
from roadbits.fleet.results import GroupRow, Results


def _printed(results: Results) -> str:
    buffer = io.StringIO()
    print_results(results, Console(file=buffer, width=140))
    return buffer.getvalue()


def group(name: str, delivered: int) -> GroupRow:
    return GroupRow(name, 2, 10, 900, 0.25, delivered, 1, 0, 0, 5.0, 9.0, 1.25, {"quality=9": 4, "quality=30": 6})


def _line(text: str, *words: str) -> str:
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_every_arm_has_a_line_with_its_numbers(results: Results) -> None:
    line = _line(_printed(results), "jpeg", "quality=10")
    for word in ("0.250", "27.12", "0.9125", "90/100", "41.0 ± 1.0", "46.0 ± 1.0", "31.0 ± 1.0"):
        assert word in line


def test_the_best_of_each_setup_is_starred(results: Results) -> None:
    text = _printed(results)
    assert "* 61.0 ± 1.0" in _line(text, "webp")
    assert "*" not in _line(text, "quality=40")


def test_ideal_and_digest_have_lines_of_their_own(results: Results) -> None:
    text = _printed(results)
    assert "71.0 ± 1.0 % mIoU" in _line(text, "OO")
    assert f"digest {results.digest}" in text.splitlines()


def test_a_run_without_downstream_has_no_miou_columns(results: Results) -> None:
    text = _printed(replace(results, downstream=[]))
    assert "mIoU" not in text
    assert "0.750" in text


def test_an_arm_that_delivered_nothing_has_no_distortion(results: Results) -> None:
    silent = replace(results.uploads[0], delivered=0, psnr_db=0.0, ms_ssim=0.0, bpp=0.0)
    text = _printed(replace(results, uploads=[silent], downstream=[]))
    assert _line(text, "jpeg").split() == ["jpeg", "quality=10", "–", "–", "–", "0/100"]


def test_a_fleet_of_groups_has_a_column_of_deliveries_for_each(results: Results) -> None:
    uploads = [replace(upload, groups=[group("weak", 7), group("strong", 9)]) for upload in results.uploads]
    text = _printed(replace(results, uploads=uploads, downstream=[]))
    assert _line(text, "codec").split()[-3:] == ["delivered", "weak", "strong"]
    assert _line(text, "quality=40").split()[-3:] == ["90/100", "7/10", "9/10"]


def test_names_are_not_read_as_rich_markup(results: Results) -> None:
    odd = replace(results.uploads[0], point="[red]x[/red]")
    text = _printed(replace(results, scenario="[bold]", uploads=[odd], downstream=[], notes=["[/] is text"]))
    assert "[red]x[/red]" in text
    assert "[bold]" in text
    assert "note: [/] is text" in text
