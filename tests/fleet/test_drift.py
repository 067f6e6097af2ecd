"""When a vehicle holds that its codec no longer fits."""

import pytest

from roadbits.fleet.adaptation_words import Drift
from roadbits.fleet.drift import Watch

WORDS = Drift(baseline_frames=4, threshold=6.0, slack=1.0)


STEADY = [(0.4, 30.0)] * 10


def first_alarm(usual: list[tuple[float, float]], after: list[tuple[float, float]]) -> tuple[int, int] | None:
    """Return the frame that raised the alarm and the one since which the codec does not fit."""
    watch = Watch(WORDS)
    for bpp, psnr_db in usual:
        watch.learn(bpp, psnr_db)
    for position, (bpp, psnr_db) in enumerate(after):
        if (since := watch.see(position, bpp, psnr_db)) is not None:
            return position, since
    return None


@pytest.mark.parametrize(
    "after", [(0.8, 30.0), (0.2, 30.0), (0.4, 25.0), (0.4, 35.0)], ids=["dearer", "cheaper", "poorer", "better"]
)
def test_a_change_in_either_direction_is_noticed_where_it_began(after: tuple[float, float]) -> None:
    alarm = first_alarm(STEADY, [(0.4, 30.0)] * 3 + [after] * 5)
    assert alarm is not None
    noticed, since = alarm
    assert since == 3
    assert noticed in (3, 4)


def test_a_small_change_takes_longer_to_notice_and_its_beginning_is_still_known() -> None:
    # Two of the least spread each frame, one of which is slack: seven frames to exceed six.
    assert first_alarm(STEADY, [(0.4, 30.0)] * 10 + [(0.4, 31.0)] * 10) == (16, 10)


def test_what_lies_within_the_slack_never_sums_up() -> None:
    assert first_alarm(STEADY, [(0.4, 30.5)] * 1000) is None


def test_where_usual_frames_vary_more_is_tolerated() -> None:
    varied = [(0.4, 30.0 + 3 * sign) for sign in (-1, 1) * 5]
    assert first_alarm(STEADY, [(0.4, 33.0)] * 3) is not None
    assert first_alarm(varied, [(0.4, 33.0)] * 3) is None


def test_nothing_is_noticed_before_it_is_known_what_is_usual() -> None:
    assert first_alarm(STEADY[:3], [(0.8, 20.0), (0.1, 40.0)]) is None


def test_a_watch_that_begins_anew_still_knows_what_is_usual() -> None:
    watch = Watch(WORDS)
    for bpp, psnr_db in STEADY:
        watch.learn(bpp, psnr_db)
    assert watch.see(0, 0.4, 32.5) is None
    watch.begin_anew()
    assert watch.see(1, 0.4, 32.5) is None
    assert watch.see(2, 0.4, 32.5) == 1
