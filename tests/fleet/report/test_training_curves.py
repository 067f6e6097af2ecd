import json
from pathlib import Path

from roadbits.fleet.report.training_curves import write_training_curves


def validation(step: int, loss: float | None, bpp: float) -> str:
    points = [{"lambda": 0.01, "bpp": bpp, "psnr_db": 30.5}]
    return json.dumps({"event": "validation", "step": step, "loss": loss, "points": points})


def test_the_page_shows_each_validated_step_once_and_fetches_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    note = json.dumps({"event": "note", "text": "no validation"})
    log.write_text(
        "\n".join([validation(20, 1.5, 0.125), note, validation(20, 1.5, 0.375), validation(30, None, 0.625)])
    )
    write_training_curves(log, tmp_path / "curves.html", "<b>mine")
    page = (tmp_path / "curves.html").read_text("utf-8")
    assert page.count('"name":"step 20"') == page.count('"name":"step 30"') == 1
    assert "[0.375]" in page
    assert "[0.125]" not in page
    assert "<script src=" not in page


def test_lines_that_were_cut_off_are_left_out(tmp_path: Path) -> None:
    log, whole = tmp_path / "log.jsonl", validation(20, 1.5, 0.125)
    log.write_bytes(f"{whole[:-9]}\n{whole[:30]}{whole}\n{validation(30, 1.0, 0.5)}\n".encode() + b"\0\xff\n")
    write_training_curves(log, tmp_path / "curves.html", "mine")
    page = (tmp_path / "curves.html").read_text("utf-8")
    assert page.count('"name":"step 30"') == 1
    assert '"name":"step 20"' not in page
