import math

import pytest

from roadbits.fleet.throughput import Queued, Throughput

S = 1_000_000


def test_nothing_is_known_before_an_upload_has_left() -> None:
    assert Throughput().bits_per_s(9 * S, [Queued(0, 99 * S, 1000)]) is None


def test_the_first_upload_tells_its_own_rate() -> None:
    assert Throughput().after(Queued(S, 3 * S, 1000)).bits_per_s(3 * S, []) == 4000.0


def test_idle_time_is_no_slowness() -> None:
    seen = Throughput().after(Queued(0, S, 1000)).after(Queued(50 * S, 51 * S, 1000))
    assert seen.bits_per_s(51 * S, []) == pytest.approx(8000)


def test_older_uploads_weigh_less_by_the_busy_time_since() -> None:
    seen = Throughput().after(Queued(0, S, 1000)).after(Queued(S, 11 * S, 1000))
    kept = math.exp(-1)
    assert seen.bits_per_s(11 * S, []) == pytest.approx((8000 * kept + 8000) / (kept + 10))


def test_an_upload_that_is_overdue_lowers_the_estimate_and_one_that_is_not_leaves_it() -> None:
    seen = Throughput().after(Queued(0, S, 1000))
    waiting = [Queued(S, 99 * S, 1000), Queued(99 * S, 999 * S, 9000)]
    assert seen.bits_per_s(2 * S, waiting) == 8000.0
    assert seen.bits_per_s(4 * S, waiting) == pytest.approx(16000 / 4)


def test_the_estimate_knows_nothing_of_when_waiting_uploads_will_leave() -> None:
    seen = Throughput().after(Queued(0, S, 1000))
    soon, late = [Queued(S, 4 * S + 1, 1000)], [Queued(S, 4000 * S, 1000)]
    assert seen.bits_per_s(4 * S, soon) == seen.bits_per_s(4 * S, late)
