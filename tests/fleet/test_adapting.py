"""What a vehicle writes into its diary: which domains are new, and which frames of them it keeps."""

from roadbits.fleet.adaptation_words import Adaptation
from roadbits.fleet.adapting import Notice, Watched, _Diary

DRIFT = {"baseline_frames": 4, "threshold": 5.0, "slack": 1.0}
WORDS = Adaptation.model_validate(
    {
        "codec": "cae",
        "point": "lambda=0.01",
        "frames": 3,
        "drift": {"baseline_frames": 4, "threshold": 5.0, "slack": 1.0},
    },
    strict=False,
)
DAY, DUSK, RAIN = ("day", 0.4, 30.0), ("dusk", 0.2, 35.0), ("rain", 0.6, 26.0)


def diary_of(*frames: tuple[str, float, float]) -> Watched:
    diary = _Diary(7, WORDS)
    for position, (domain, bpp, psnr_db) in enumerate(frames):
        diary.enter(position, 1_000_000 * position, domain, bpp, psnr_db)
    return diary.closed(0)


def test_a_new_domain_is_noticed_and_frames_of_it_are_kept() -> None:
    watched = diary_of(*[DAY] * 6, *[DUSK] * 6)
    assert watched.home == "day"
    assert watched.domains == ("dusk",)
    (notice,) = watched.notices
    assert notice == Notice(7, "dusk", notice.noticed_us, 8_000_000, (6, 7, 8))
    assert notice.noticed_us in (6_000_000, 7_000_000)
    assert watched.usual == (0, 2, 4)


def test_a_domain_that_looks_as_usual_is_not_noticed() -> None:
    watched = diary_of(*[DAY] * 6, *[("dusk", 0.4, 30.0)] * 6)
    assert watched.domains == ("dusk",)
    assert not watched.notices


def test_nothing_is_noticed_at_home() -> None:
    assert not diary_of(*[DAY] * 6, *[("day", 0.2, 35.0)] * 9).notices


def test_home_teaches_how_much_is_usual() -> None:
    varied = [("day", 0.2, 35.0), ("day", 0.6, 26.0)] * 4
    assert not diary_of(*varied, *[DUSK] * 3).notices
    assert diary_of(*[DAY] * 8, *[DUSK] * 3).notices


def test_a_domain_is_noticed_once_and_the_next_one_after_it() -> None:
    watched = diary_of(*[DAY] * 6, *[DUSK] * 8, *[RAIN] * 8, *[DUSK] * 8)
    assert [notice.domain for notice in watched.notices] == ["dusk", "rain"]
    assert watched.notices[1].frames == (14, 15, 16)


def test_a_drive_that_ends_early_leaves_what_frames_there_were() -> None:
    (notice,) = diary_of(*[DAY] * 6, *[DUSK] * 2).notices
    assert notice.frames == (6, 7)
    assert notice.ready_us == 7_000_000


def test_only_frames_of_the_domain_itself_are_kept() -> None:
    (notice,) = diary_of(*[DAY] * 6, DUSK, DUSK, DAY, DAY, DUSK, DUSK).notices
    assert notice.frames == (6, 7, 10)


def test_a_vehicle_that_leaves_with_too_few_frames_waits_for_more_until_its_drive_ends() -> None:
    (back,) = diary_of(*[DAY] * 6, DUSK, DUSK, DAY, DAY, DUSK, DUSK).notices
    assert back.ready_us == 10_000_000
    (gone,) = diary_of(*[DAY] * 6, DUSK, DUSK, DAY, DAY).notices
    assert (gone.frames, gone.ready_us) == ((6, 7), 9_000_000)


def test_a_domain_first_noticed_when_it_comes_again_keeps_no_frame_of_what_came_between() -> None:
    """In dusk for one frame only, then in the night, and in dusk again."""
    watched = diary_of(*[DAY] * 6, ("dusk", 0.39, 30.1), *[("night", 0.1, 38.0)] * 3, *[DUSK] * 4)
    notices = {notice.domain: notice.frames for notice in watched.notices}
    assert notices == {"night": (7, 8, 9), "dusk": (10, 11, 12)}
