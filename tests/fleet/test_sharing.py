"""What becomes of a round's updates: the mean of those that count, the same every time, and nothing from too few."""

import io
import os
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from roadbits.codecs.adaptation.update import Vector
from roadbits.fleet.adaptation_words import StrategyWords
from roadbits.fleet.sharing import FleetGrid, GuardedStrategy, Round, TrainRound, Update, implausible, reply_of, share

SIZE = 500
KINDS = ("fedavg", "fedprox", "fedadam", "trimmed-mean", "median")


def vector(seed: int) -> Vector:
    return np.random.default_rng(seed).normal(0, 0.02, SIZE).astype(np.float32)


def shared(
    train: TrainRound, kind: str = "fedavg", vehicles: Sequence[int] = range(8), quorum: int = 2, rounds: int = 1
) -> tuple[Vector, list[Round]]:
    words = StrategyWords.model_validate({"kind": kind})
    return share(words, np.zeros(SIZE, np.float32), rounds, quorum, lambda number: vehicles, train)


def honest(number: int, start: Vector, vehicles: Sequence[int]) -> list[Update]:
    return [Update(vehicle, start + vector(vehicle), 4) for vehicle in vehicles]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fedadam"])
def test_a_hundred_equal_updates_average_to_exactly_that_update(kind: str) -> None:
    mean, _ = shared(lambda number, start, vehicles: [Update(v, vector(0), 3) for v in vehicles], kind, range(100))
    assert np.array_equal(mean, vector(0))


def test_updates_count_by_their_frames() -> None:
    def train(number: int, start: Vector, vehicles: Sequence[int]) -> list[Update]:
        return [Update(0, start + 1, 1), Update(1, start + 4, 3)]

    mean, _ = shared(train, vehicles=(0, 1))
    assert np.array_equal(mean, np.full(SIZE, 3.25, np.float32))


def test_the_median_and_the_trimmed_mean_pass_over_an_outlier() -> None:
    def train(number: int, start: Vector, vehicles: Sequence[int]) -> list[Update]:
        return [Update(vehicle, start + (1 if vehicle else 9), 4) for vehicle in vehicles]

    for kind in ("median", "trimmed-mean"):
        assert np.allclose(shared(train, kind)[0], 1)
    assert np.allclose(shared(train)[0], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_strategy_goes_on_from_its_last_round(kind: str) -> None:
    one, _ = shared(honest, kind)
    two, rounds = shared(honest, kind, rounds=2)
    assert np.linalg.norm(two) > 1.5 * np.linalg.norm(one)
    assert [each.number for each in rounds] == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_in_which_replies_arrive_changes_nothing(kind: str) -> None:
    there, _ = shared(honest, kind, rounds=2)
    back, _ = shared(lambda number, start, vehicles: honest(number, start, vehicles)[::-1], kind, rounds=2)
    assert np.array_equal(there, back)


POISON = {
    1: (np.full(SIZE, np.nan, np.float32), "not finite"),
    2: (vector(2) * 1e5, "times the usual"),
    3: (vector(3)[:7], "has shape (7,)"),
    4: (None, "a wrong source"),
    5: (vector(5) * 1e9, "beyond 65504"),
}


def poisoned(number: int, start: Vector, vehicles: Sequence[int]) -> list[Update]:
    updates = honest(number, start, vehicles)
    for vehicle, (sent, reason) in POISON.items():
        updates[vehicle] = Update(vehicle, sent, 4, "" if sent is not None else reason)
    return updates


@pytest.mark.parametrize("kind", KINDS)
def test_poisoned_updates_change_nothing_and_are_named(kind: str) -> None:
    without, _ = shared(honest, kind, (0, 6, 7))
    found, (only,) = shared(poisoned, kind)
    assert np.array_equal(found, without)
    assert only.accepted == (0, 6, 7)
    assert {vehicle: reason in only.refused[vehicle] for vehicle, (_, reason) in POISON.items()} == dict.fromkeys(
        POISON, True
    )


def test_a_round_without_quorum_keeps_the_old_adapter_and_says_so() -> None:
    def train(number: int, start: Vector, vehicles: Sequence[int]) -> list[Update]:
        return honest(number, start, vehicles) if number == 1 else poisoned(number, start, vehicles)

    after_one, _ = shared(train, quorum=5)
    after_two, rounds = shared(train, quorum=5, rounds=2)
    assert np.array_equal(after_one, after_two)
    assert [each.has_quorum for each in rounds] == [True, False]


def test_a_round_of_nobody_has_no_quorum() -> None:
    found, rounds = shared(honest, vehicles=())
    assert not found.any()
    assert not any(each.has_quorum for each in rounds)


def test_two_updates_cannot_tell_which_of_them_is_too_long() -> None:
    assert not implausible({0: np.ones(3), 1: np.full(3, 1e4)}, np.zeros(3))


def test_flower_sends_no_telemetry() -> None:
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"


class FailingGrid(FleetGrid):
    """One vehicle answers with an error, as Flower's own broker passes it on."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = {message.metadata.dst_node_id: message for message in messages}
        failing = asked.pop(0, None)
        replies = super().send_and_receive(asked.values(), timeout=timeout)
        return [*replies, Message(Error(1, "vehicle 0 noticed nothing"), reply_to=failing)] if failing else replies


def test_a_vehicle_that_answers_with_an_error_is_named_and_the_others_count() -> None:
    expected, _ = shared(honest, vehicles=(1, 2))  # which also tells Flower who speaks
    strategy = GuardedStrategy(StrategyWords(), quorum=2, num_vehicles=3)
    grid = FailingGrid(lambda number: (0, 1, 2), honest, strategy.absent)
    assert np.array_equal(strategy.shared(grid, np.zeros(SIZE, np.float32), rounds=1), expected)
    (only,) = strategy.rounds
    assert only.accepted == (1, 2)
    assert list(only.refused.values()) == ["vehicle 0 noticed nothing"]


class SilentGrid(FleetGrid):
    """One vehicle never answers, as a node that has gone."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return super().send_and_receive([m for m in messages if m.metadata.dst_node_id != 0], timeout=timeout)


def test_a_vehicle_that_never_answers_is_named_and_the_others_count() -> None:
    expected, _ = shared(honest, vehicles=(1, 2))
    strategy = GuardedStrategy(StrategyWords(), quorum=2, num_vehicles=3)
    grid = SilentGrid(lambda number: (0, 1, 2), honest, strategy.absent)
    assert np.array_equal(strategy.shared(grid, np.zeros(SIZE, np.float32), rounds=1), expected)
    (only,) = strategy.rounds
    assert only.accepted == (1, 2)
    assert only.refused == {0: "it did not answer in time"}


def reply(**changed: object) -> RecordDict:
    """Return an honest reply of vehicle 0, some records changed; None takes one away."""
    records = {**reply_of(0, vector(0), 4), **changed}
    return RecordDict({name: record for name, record in records.items() if record is not None})  # type: ignore[misc]


def sent(data: bytes) -> RecordDict:
    """Return a reply whose array is these bytes."""
    return reply(arrays=ArrayRecord({"adapter": Array("float64", (SIZE,), "numpy.ndarray", data)}))


def file_of_zeros(claimed: int | tuple[int, ...] = SIZE) -> bytes:
    """Return a `.npy` file of `SIZE` float64 whose head claims another shape."""
    file = io.BytesIO()
    shape = claimed if isinstance(claimed, tuple) else (claimed,)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(8 * SIZE)


BROKEN = {
    "no sender": (reply(sender=None), "expected ['arrays', 'metrics', 'sender']"),
    "no arrays": (reply(arrays=None), "expected ['arrays', 'metrics', 'sender']"),
    "no metrics": (reply(metrics=None), "expected ['arrays', 'metrics', 'sender']"),
    "a second array": (reply(more=ArrayRecord({"x": Array(np.zeros(2))})), "its reply holds"),
    "another array": (reply(arrays=ArrayRecord({"x": Array(np.zeros(2))})), "other arrays"),
    "another metric": (reply(metrics=MetricRecord({"num-examples": 4, "x": 1})), "other arrays or metrics"),
    "a name as its number": (reply(sender=ConfigRecord({"vehicle": "abc"})), "says that it is vehicle 'abc'"),
    "a number beyond the fleet": (reply(sender=ConfigRecord({"vehicle": 9})), "says that it is vehicle 9"),
    "another's number": (reply(sender=ConfigRecord({"vehicle": 1})), "as another did"),
    "no frames": (reply(metrics=MetricRecord({"num-examples": 0})), "learned 0 frames"),
    "fewer than no frames": (reply(metrics=MetricRecord({"num-examples": -7})), "learned -7 frames"),
    "frames that are no number": (reply(metrics=MetricRecord({"num-examples": float("nan")})), "learned nan frames"),
    "too many frames": (reply(metrics=MetricRecord({"num-examples": 10**12})), "learned 1000000000000 frames"),
    "whole numbers": (
        reply(arrays=ArrayRecord({"adapter": Array(np.zeros(SIZE, np.int64))})),
        "expected float64 (n,), got int64",
    ),
    "bytes that are no array": (sent(b"no array"), "sent no array"),
    "an archive": (sent(b"PK\x03\x04" + bytes(60)), "sent no array"),
    "a head that ends early": (sent(file_of_zeros()[:40] + bytes(4000)), "sent no array: its head is damaged"),
    "a head that claims terabytes": (sent(file_of_zeros(10**12)), "tells of 1000000000000 numbers, 4000 bytes came"),
    "a head that claims more than can be counted": (sent(file_of_zeros(10**26)), "4000 bytes came"),
    "a table": (sent(file_of_zeros((SIZE, 1))), "got float64 (500, 1)"),
}


@pytest.mark.parametrize(("content", "reason"), BROKEN.values(), ids=list(BROKEN))
def test_a_reply_that_is_no_update_changes_nothing_and_is_named(content: RecordDict, reason: str) -> None:
    class BrokenGrid(FleetGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            asked = {message.metadata.dst_node_id: message for message in messages}
            broken = asked.pop(9, None)
            replies = list(super().send_and_receive(asked.values(), timeout=timeout))
            return [*replies, Message(content, reply_to=broken)] if broken else replies

    expected, _ = shared(honest, vehicles=(1, 2))
    strategy = GuardedStrategy(StrategyWords(), quorum=2, num_vehicles=4)
    grid = BrokenGrid(lambda number: (1, 2, 9), honest, strategy.absent)
    assert np.array_equal(strategy.shared(grid, np.zeros(SIZE, np.float32), rounds=1), expected)
    (only,) = strategy.rounds
    assert only.accepted == (1, 2)
    assert reason in only.refused[9]
