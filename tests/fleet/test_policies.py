from dataclasses import replace

import numpy as np
import pytest

from roadbits.fleet.devices import ladder_of
from roadbits.fleet.policies import Account, Budget, Expected, Link, Situation, TargetBpp, policy_of
from roadbits.fleet.rules import Budget as BudgetWords
from roadbits.fleet.rules import Link as LinkWords
from roadbits.fleet.rules import TargetBpp as TargetWords
from roadbits.fleet.scenario import Device
from tests.fleet.slim_codec import SlimCodec

# Four points of 1000, 2000, 4000 and 8000 bytes; the third is wide: slow, dear, and better than the fourth.
BYTES = np.array([1000.0, 2000.0, 4000.0, 8000.0])
EXPECTED = Expected(
    usable=np.ones(4, np.bool_),
    bpp=8 * BYTES / 80_000,
    psnr_db=np.array([25.0, 28.0, 34.0, 31.0]),
    payload_bytes=BYTES,
    encode_s=np.array([0.1, 0.1, 0.4, 0.1]),
    joules=np.array([1.0, 1.0, 5.0, 1.5]),
)
IDLE = Situation(now_s=0.0, age_s=0.0, interval_s=1.0, backlog_bytes=0, room_bytes=100_000, bits_per_s=64_000.0)
LINK = Link(latency_s=10.0, max_bpp=np.inf)
BUDGET = Budget(latency_s=10.0, max_bpp=np.inf, joules_per_hour=np.inf)
NEW = Account()


def test_a_target_takes_the_nearest_rate() -> None:
    assert [TargetBpp(bpp).choose(EXPECTED, IDLE, NEW) for bpp in (0.01, 0.11, 0.19, 0.5, 9.0)] == [0, 0, 1, 2, 3]


def test_a_target_makes_up_for_what_was_too_much_or_too_little() -> None:
    policy = TargetBpp(0.25)
    assert [policy.choose(EXPECTED, IDLE, Account(excess)) for excess in (-1.5, 0.0, 1.5)] == [2, 1, 1]
    assert policy.choose(EXPECTED, IDLE, Account(3.0)) == 0


def test_what_a_target_makes_up_for_is_bounded() -> None:
    account = NEW
    for _ in range(100):
        account = TargetBpp(0.1).charged(account, 0.8, 1.0)
    assert account == Account(3.0, 100.0)
    assert TargetBpp(0.1).charged(NEW, None, 1.0) == Account(0.0, 1.0)


@pytest.mark.parametrize(
    ("bits_per_s", "expected"), [(1e6, 3), (54_000, 3), (52_000, 2), (27_000, 2), (20_000, 1), (8000, 0)]
)
def test_the_rate_follows_the_link(bits_per_s: float, expected: int) -> None:
    # A frame may take 1.2 shares: at 54 kbit/s 8100 bytes, which leave within 1.2 of the 3.5 s allowed.
    assert LINK.choose(EXPECTED, replace(IDLE, bits_per_s=bits_per_s), NEW) == expected


def test_a_backlog_lowers_the_rate_until_it_is_drained() -> None:
    chosen = [LINK.choose(EXPECTED, replace(IDLE, backlog_bytes=waits), NEW) for waits in (0, 22_000, 26_300, 33_000)]
    assert chosen == [3, 2, 1, 0]


def test_a_frame_that_would_come_too_late_is_skipped_unless_the_link_is_idle() -> None:
    assert LINK.choose(EXPECTED, replace(IDLE, backlog_bytes=78_000), NEW) == 0
    assert LINK.choose(EXPECTED, replace(IDLE, backlog_bytes=79_900), NEW) is None
    assert LINK.choose(EXPECTED, replace(IDLE, bits_per_s=10.0), NEW) == 0


def test_a_frame_that_has_waited_for_the_encoder_has_less_time_left() -> None:
    assert LINK.choose(EXPECTED, replace(IDLE, age_s=9.4), NEW) == 0


def test_a_full_send_buffer_takes_no_large_frame() -> None:
    assert LINK.choose(EXPECTED, replace(IDLE, room_bytes=7000), NEW) == 2
    assert LINK.choose(EXPECTED, replace(IDLE, room_bytes=500, backlog_bytes=5000), NEW) is None


def test_before_anything_is_known_of_the_link_the_cheapest_point_is_sent() -> None:
    for backlog in (0, 1000):
        assert LINK.choose(EXPECTED, replace(IDLE, bits_per_s=None, backlog_bytes=backlog), NEW) == 0


def test_no_frame_is_given_more_than_the_largest_rate() -> None:
    assert replace(LINK, max_bpp=0.3).choose(EXPECTED, IDLE, NEW) == 1
    assert replace(LINK, max_bpp=0.01).choose(EXPECTED, IDLE, NEW) == 0


def test_a_budget_takes_the_best_quality_not_the_highest_rate() -> None:
    assert LINK.choose(EXPECTED, IDLE, NEW) == 3
    assert BUDGET.choose(EXPECTED, IDLE, NEW) == 2


def test_of_equal_quality_a_budget_takes_the_fewer_bytes() -> None:
    alike = replace(EXPECTED, psnr_db=np.full(4, 30.0))
    assert BUDGET.choose(alike, IDLE, NEW) == 0


def test_a_budget_spends_its_allowance_and_no_more() -> None:
    # 7200 J an hour are 2 J a frame: the wide point's 5 J are more, but not after 150 J were saved.
    policy = replace(BUDGET, joules_per_hour=7200.0)
    assert policy.choose(EXPECTED, IDLE, NEW) == 3
    assert policy.choose(EXPECTED, replace(IDLE, now_s=100.0), Account(joules=50.0)) == 2
    assert policy.choose(EXPECTED, replace(IDLE, now_s=100.0), Account(joules=240.0)) == 1
    assert policy.choose(EXPECTED, replace(IDLE, now_s=100.0), Account(joules=260.0)) is None


def test_a_mean_power_comes_out_as_allowed() -> None:
    policy, account, spent = replace(BUDGET, joules_per_hour=2.2 * 3600), NEW, []
    for frame in range(400):
        position = policy.choose(EXPECTED, replace(IDLE, now_s=float(frame)), account)
        spent.append(0.0 if position is None else float(EXPECTED.joules[position]))
        account = policy.charged(account, 0.1, spent[-1])
    assert sum(spent[200:]) / 200 == pytest.approx(2.2, rel=0.05)


def test_a_budget_uses_all_that_can_be_encoded_between_two_frames_and_the_others_the_widest_of_it() -> None:
    device = Device(encode_watts=5, radio_joules_per_mbit=1, gmac_per_s=0.1, joules_per_gmac=1, memory_mb=8.0, duty=0.5)
    # 9216 and 2304 MAC a pixel, 1.84 and 0.46 s; 192 does not fit 8 MB.
    ladder = ladder_of(device, SlimCodec(), 100, 200)
    for policy in (LINK, TargetBpp(1)):
        assert policy.usable(ladder, 1.0, 0.5).tolist() == [False, False, True] * 5
        assert policy.usable(ladder, 4.0, 0.5).tolist() == [False, True, False] * 5
        assert policy.usable(ladder, 0.001, 0.5).tolist() == [False, False, True] * 5
    assert BUDGET.usable(ladder, 1.0, 0.5).tolist() == [False, False, True] * 5
    assert BUDGET.usable(ladder, 4.0, 0.5).tolist() == [False, True, True] * 5


def test_words_become_policies_and_the_deadline_the_latency() -> None:
    assert policy_of(TargetWords(kind="target-bpp", bpp=0.2), 60.0) == TargetBpp(0.2)
    assert policy_of(LinkWords(kind="link"), 60.0) == Link(60.0, np.inf)
    words = BudgetWords(kind="budget", latency_s=5.0, max_bpp=1.0, joules_per_hour=100.0)
    assert policy_of(words, 60.0) == Budget(5.0, 1.0, 100.0)


def test_of_points_that_take_about_as_few_bytes_a_budget_sends_the_best() -> None:
    """Two widths at their lowest rates: the wide one takes a twentieth more bytes, and is much better."""
    expected = replace(EXPECTED, payload_bytes=np.array([1000.0, 1200.0, 1050.0, 8000.0]))
    slow = replace(IDLE, bits_per_s=10.0)
    assert BUDGET.choose(expected, slow, NEW) == 2
    assert LINK.choose(replace(expected, psnr_db=np.zeros(4)), slow, NEW) == 0
    assert BUDGET.choose(replace(expected, usable=np.array([True, True, False, True])), slow, NEW) == 0
