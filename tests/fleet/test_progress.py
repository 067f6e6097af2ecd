import json
from pathlib import Path
from typing import Any

import pytest

from roadbits.fleet.progress import Display


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_stage_is_logged_when_it_begins_and_ends(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with Display(log, quiet=True).bar("collect", 5) as bar:
        assert [event["event"] for event in events(log)] == ["begin"]
        bar.advance(3)
        bar.set(5, "done")
    begin, end = events(log)
    assert (begin["event"], begin["stage"], begin["units"]) == ("begin", "collect", 5)
    assert (end["event"], end["stage"]) == ("end", "collect")
    assert end["seconds"] >= 0
    assert begin["time_s"] <= end["time_s"]


def test_a_stage_that_fails_is_not_logged_as_ended(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match="odd"), Display(log, quiet=True).bar("train", 1):
        raise ValueError("odd")
    assert [event["event"] for event in events(log)] == ["begin"]


def test_a_log_is_continued_by_the_next_process(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for text in ("first", "zweite Größe"):
        Display(log, quiet=True).say(text)
    assert [(event["event"], event["text"]) for event in events(log)] == [("note", "first"), ("note", "zweite Größe")]


def test_an_event_begins_a_line_of_its_own_behind_one_that_was_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"time_s": 3, "ev')
    Display(log, quiet=True).say("first")
    Display(log, quiet=True).say("second")
    cut, *whole = log.read_text().splitlines()
    assert cut == '{"time_s": 3, "ev'
    assert [json.loads(line)["text"] for line in whole] == ["first", "second"]


def test_bars_and_messages_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    with display.bar("measure", 2) as bar:
        bar.set(2, "loss 0.5")
    display.say("[bold]jpeg[/bold] delivered nothing")
    out, err = capsys.readouterr()
    assert out == ""
    assert "measure" in err
    assert "2/2" in err
    assert "loss 0.5" in err
    assert "[bold]jpeg[/bold] delivered nothing" in err


def test_a_quiet_display_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=True)
    with display.bar("measure", 2) as bar:
        bar.advance()
    display.say("told")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", ["60", "80", "160"])
def test_a_narrow_terminal_cuts_the_note_and_not_the_counts(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with Display().bar("train", 15000, note_width=56) as bar:
        bar.set(7500, "loss 10.949  0.845 bpp  24.87 dB  1.26 steps/s")
    line = capsys.readouterr().err.strip()
    assert "7500/15000" in line
    assert "loss" in line
    assert ("steps/s" in line) == (columns == "160")
    assert len(line) <= int(columns)


def test_a_bar_without_a_note_is_as_wide_as_it_can_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with Display().bar("collect", 240) as bar:
        bar.set(240)
    assert capsys.readouterr().err.count("\u2501") >= 30
