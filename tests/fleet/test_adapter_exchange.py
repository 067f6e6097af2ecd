"""When vehicles have their adapters, and what that takes of their links: worked out by hand on constant links."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from roadbits.codecs.adaptation.update import packed, set_vector, unadapted, unpacked, vector_of
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.neural.still import NeuralStill
from roadbits.fleet.adapter_exchange import (
    REPORT_BYTES,
    AdapterLinks,
    Computers,
    Exchange,
    Exchanges,
    training_macs,
    training_seconds,
)
from roadbits.fleet.adapting import Lessons, Notice
from roadbits.fleet.feasibility import DeviceError
from roadbits.fleet.links import link_for
from roadbits.fleet.scenario import Scenario

US = 1_000_000
MBPS = 0.08
"""10,000 bytes a second."""
SMALL_DRIVE = {"height": 96, "width": 128, "frames_per_vehicle": 4, "test_frames": 1}
CAE = codec_named("cae")
assert isinstance(CAE, NeuralStill)


def scenario(vehicles: int = 3, sharing: str = "federated", **words: Any) -> Scenario:
    device = {"encode_watts": 5, "radio_joules_per_mbit": 1, "joules_per_gmac": 0.3, "memory_mb": 256}
    adaptation = {"codec": "cae", "point": "lambda=0.0067", "sharing": [sharing], "methods": ["density"]}
    return Scenario.model_validate(
        {
            "name": "exchange",
            "cameras": {"kind": "street", "domains": ["day", "dusk"], **SMALL_DRIVE},
            "fleet": {
                "vehicles": vehicles,
                "uplink": {"kind": "constant", "rate_mbps": MBPS},
                "device": {**device, "gmac_per_s": 10.0},
            },
            "codecs": [{"name": "cae", "points": ["lambda=0.0067"]}],
            "adaptation": {**adaptation, "rounds": 2, "steps": 8, "server_gmac_per_s": 100.0, **words},
        },
        strict=False,
    )


def notices(*ready_s: float, lossless_bytes: int = 0) -> list[Notice]:
    return [
        Notice(vehicle, "dusk", round(at * US), round(at * US), (1, 2, 3), lossless_bytes)
        for vehicle, at in enumerate(ready_s)
    ]


def update(number: float = 0.5) -> bytes:
    enhancement = unadapted(CAE.model, with_residuals=False)
    set_vector(enhancement, np.full(len(vector_of(enhancement)), number, np.float32))
    return packed(enhancement)


def exchange(words: Scenario, found: Sequence[Notice], **outcomes: Any) -> tuple[Exchange, AdapterLinks, list[Lessons]]:
    """Return what happens where every training gives the same update, or what `outcomes` says of its vehicle."""
    assert words.adaptation is not None
    links, asked = AdapterLinks(words), list[Lessons]()

    def train(name: str, jobs: Sequence[Lessons]) -> list[bytes | str]:
        asked.extend(jobs)
        return [outcomes.get(f"vehicle_{job.lessons[0].vehicle}", update()) for job in jobs]

    exchanges = Exchanges(words, 0, links, train)
    return exchanges.by(words.adaptation.sharing[0], "dusk", found), links, asked


def carried_s(num_bytes: int) -> float:
    return 8 * num_bytes / (MBPS * US)


def test_a_round_takes_what_its_bytes_and_its_training_take() -> None:
    words = scenario(quorum=2)
    found, _, asked = exchange(words, notices(1, 2))
    train_s, size = training_seconds(words, 0, 8), len(update())
    opened_s = 2 + carried_s(REPORT_BYTES)
    first, second = found.rounds
    assert first.begin_s == pytest.approx(opened_s, abs=1e-5)
    assert first.end_s == pytest.approx(opened_s + carried_s(REPORT_BYTES) + train_s + carried_s(size), abs=1e-5)
    assert second.begin_s == first.end_s
    assert second.end_s == pytest.approx(first.end_s + 2 * carried_s(size) + train_s, abs=1e-4)
    assert [each.from_us for each in found.equipped] == [
        pytest.approx((second.end_s + carried_s(size)) * US, abs=20)
    ] * 2
    # A report, a request, an update, the round's adapter, an update, and what came of it all.
    assert found.traffic_bytes == 2 * (2 * REPORT_BYTES + 4 * size)
    assert found.train_macs == 2 * 2 * training_macs(words.adaptation, 8)  # type: ignore[arg-type]
    assert [job.first_step for job in asked] == [0, 0, 8, 8]
    assert [job.start for job in asked] == [b"", b"", update(), update()]


def test_all_that_adapters_take_of_a_link_is_missing_from_the_frames_link() -> None:
    words = scenario(quorum=2)
    _, links, _ = exchange(words, notices(1, 2))
    taken = links.taken(0)
    assert all(begin < end for begin, end in taken)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(taken))
    free = link_for(words.fleet, words.seed, 0)
    shared = link_for(words.fleet, words.seed, 0, taken)
    # A large upload under way meanwhile: later by exactly as long as adapters are.
    late_us = shared.offer(0, 2_000_000) - free.offer(0, 2_000_000)
    assert late_us == pytest.approx(sum(end - begin for begin, end in taken), abs=len(taken) + 1)


def test_whoever_reports_after_the_last_round_gets_the_adapter_and_trains_none() -> None:
    found, _, asked = exchange(scenario(quorum=2), notices(1, 2, 5000))
    assert {job.lessons[0].vehicle for job in asked} == {0, 1}
    (late,) = [each for each in found.equipped if each.vehicle == 2]
    assert late.from_us == pytest.approx((5000 + carried_s(REPORT_BYTES) + carried_s(len(update()))) * US, abs=20)


def test_fewer_than_a_quorum_adapt_nothing() -> None:
    found, _, asked = exchange(scenario(quorum=3), notices(1, 2))
    assert not found.equipped
    assert not asked
    assert found.traffic_bytes == 2 * REPORT_BYTES


def test_an_update_that_comes_too_late_is_left_out_by_name() -> None:
    words = scenario(quorum=1, round_s=1.0)
    found, _, _ = exchange(words, notices(1, 2))
    assert not any(each.has_quorum for each in found.rounds)
    assert "too late for the round" in found.rounds[0].refused["0"]
    assert found.rounds[0].end_s == pytest.approx(found.rounds[0].begin_s + 1)
    assert not found.equipped


@pytest.mark.parametrize("sent", [b"rubbish", "the update holds numbers that are not finite"])
def test_what_a_vehicle_cannot_send_or_the_server_cannot_read_is_named(sent: bytes | str) -> None:
    found, _, _ = exchange(scenario(vehicles=3, quorum=2), notices(1, 1, 1), vehicle_1=sent)
    assert found.rounds[0].accepted == [0, 2]
    assert list(found.rounds[0].refused) == ["1"]
    assert [lesson.vehicle for lesson in found.lessons] == [0, 2]
    assert {each.update for each in found.equipped} == {update()}


def test_of_many_vehicles_some_are_asked_anew_in_each_round() -> None:
    words = scenario(vehicles=8, quorum=2, vehicles_per_round=3, rounds=4)
    _, _, asked = exchange(words, notices(*[1.0] * 8))
    rounds = [[job.lessons[0].vehicle for job in asked[k : k + 3]] for k in range(0, 12, 3)]
    assert all(len(set(each)) == 3 for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert asked == exchange(words, notices(*[1.0] * 8))[2]


def test_alone_a_vehicle_uses_at_once_what_it_learned_and_the_server_knows_when_it_has_come() -> None:
    words = scenario(sharing="local")
    found, _, asked = exchange(words, notices(1, 4))
    assert [job.steps for job in asked] == [16, 16]
    assert asked[0].seed != asked[1].seed
    trained_s = 1 + training_seconds(words, 0, 16)
    assert found.equipped[0].from_us == pytest.approx(trained_s * US, abs=20)
    assert found.equipped[0].known_us == pytest.approx((trained_s + carried_s(len(update()))) * US, abs=20)
    assert found.traffic_bytes == 2 * len(update())


def test_in_one_place_frames_go_up_and_one_adapter_comes_down() -> None:
    words = scenario(vehicles=2, sharing="central", quorum=2)
    found, _, (job,) = exchange(words, notices(1, 2, lossless_bytes=5000))
    assert [lesson.vehicle for lesson in job.lessons] == [0, 1]
    server_s = training_macs(words.adaptation, 16) / 1e9 / 100  # type: ignore[arg-type]
    expected_s = 2 + carried_s(5000) + server_s + carried_s(len(update()))
    assert [each.from_us for each in found.equipped] == [pytest.approx(expected_s * US, abs=20)] * 2
    assert found.traffic_bytes == 2 * (5000 + len(update()))
    assert found.train_macs == 0


def test_in_one_place_training_waits_for_vehicles_that_may_still_send() -> None:
    words = scenario(vehicles=3, sharing="central", quorum=2, round_s=30.0)
    found, _, (job,) = exchange(words, notices(1, 2, 50, lossless_bytes=5000))
    assert [lesson.vehicle for lesson in job.lessons] == [0, 1]
    server_s = training_macs(words.adaptation, 16) / 1e9 / 100  # type: ignore[arg-type]
    trained_s = 2 + carried_s(5000) + 30 + server_s
    assert [each.known_us for each in found.equipped] == [
        pytest.approx(at_s * US, abs=20) for at_s in (trained_s, trained_s, 50 + carried_s(5000))
    ]


def test_training_takes_what_encoding_leaves() -> None:
    half, tenth = scenario(idle_share=0.5), scenario(idle_share=0.1)
    assert training_seconds(tenth, 0, 8) == pytest.approx(5 * training_seconds(half, 0, 8))
    encode_s = CAE.complexity(CAE.points[0], 96, 128).encode_macs / 1e9 / 10
    expected = training_macs(half.adaptation, 8) / 1e9 / 10 / ((1 - encode_s) * 0.5)  # type: ignore[arg-type]
    assert training_seconds(half, 0, 8) == pytest.approx(expected)


def test_a_device_that_only_just_encodes_cannot_train() -> None:
    words = scenario()
    slow = words.model_copy(
        update={
            "fleet": words.fleet.model_copy(
                update={"device": words.fleet.device.model_copy(update={"gmac_per_s": 0.1})}  # type: ignore[union-attr]
            )
        }
    )
    with pytest.raises(DeviceError, match="none is left to train"):
        training_seconds(slow, 0, 8)


def test_what_is_handed_out_is_what_the_rounds_came_to() -> None:
    found, _, _ = exchange(scenario(quorum=2), notices(1, 2, 3), vehicle_0=update(0.25), vehicle_2=update(0.25))
    # Of the two that made the quorum, in the second round the third as well: the mean of .25, .5 and .25.
    vector = vector_of(unpacked(CAE.model, found.equipped[0].update))
    counted = [0.25 if vehicle in (0, 2) else 0.5 for vehicle in found.rounds[-1].accepted]
    assert np.allclose(vector, np.mean(counted), atol=1e-3)


def test_what_is_worked_out_later_may_travel_earlier() -> None:
    """A link that is to carry something at 1,000 s is idle before, and busy for a second then."""
    links = AdapterLinks(scenario())
    assert links.carry(0, 1000 * US, 10_000) == pytest.approx(1001 * US, abs=2)
    assert links.carry(0, 300 * US, 10_000) == pytest.approx(301 * US, abs=2)
    assert links.carry(0, 999 * US + US // 2, 10_000) == pytest.approx(1001.5 * US, abs=4), "it makes way for a second"
    assert links.carry(0, 1000 * US, 5_000) == pytest.approx(1002 * US, abs=4), "and others wait for both"
    taken = links.taken(0)
    assert sum(end - begin for begin, end in taken) == pytest.approx(3.5 * US, abs=10)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(taken))


def test_each_vehicle_pays_for_what_it_sends_and_trains() -> None:
    words = scenario(quorum=2)
    found, _, _ = exchange(words, notices(1, 2, 5000))
    train_macs = training_macs(words.adaptation, 8)  # type: ignore[arg-type]
    assert found.trained_macs == {0: 2 * train_macs, 1: 2 * train_macs}
    size = len(update())
    assert found.sent_bytes == {0: 2 * REPORT_BYTES + 4 * size, 1: 2 * REPORT_BYTES + 4 * size, 2: REPORT_BYTES + size}


def test_a_vehicle_that_is_late_trains_for_one_round_after_the_other() -> None:
    words = scenario(quorum=1, round_s=1.0)
    found, links, _ = exchange(words, notices(1, 2))
    train_s = training_seconds(words, 0, 8)
    assert train_s > 2 * found.rounds[0].end_s, "the second round begins while it trains for the first"
    begins_s = [begin / US for begin, _ in links.taken(0)]
    opened_s = found.rounds[0].begin_s + carried_s(REPORT_BYTES)
    assert begins_s[-2:] == pytest.approx([opened_s + train_s, opened_s + 2 * train_s], abs=1e-3)


def test_a_computer_trains_for_one_domain_after_the_other() -> None:
    computers = Computers()
    assert computers.train(0, 10 * US, 5) == 15 * US
    assert computers.train(0, 12 * US, 5) == 20 * US  # waits
    assert computers.train(1, 12 * US, 5) == 17 * US  # another vehicle's does not
    assert computers.train(0, 6 * US, 6) == 22 * US  # worked out later: four seconds before the others, two after
    assert computers.train(0, 0, 6) == 6 * US
    assert computers.train(0, 0, 1) == 23 * US


def test_a_vehicle_that_notices_two_domains_trains_for_them_in_turn() -> None:
    words = scenario(vehicles=1, sharing="local")
    exchanges = Exchanges(words, 0, AdapterLinks(words), lambda name, jobs: [update() for _ in jobs])
    alone_s = training_seconds(words, 0, 16)
    ends = [exchanges.by("local", domain, notices(1)).equipped[0].from_us / US for domain in ("dusk", "night")]
    assert ends == pytest.approx([1 + alone_s, 1 + 2 * alone_s], abs=1e-5)
