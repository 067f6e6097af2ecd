"""Sharing adapters: Flower's strategies, with vehicles of our own below them and our own care around them.

Flower decides what the mean of many updates is; this module decides which vehicles take part, which updates count, and
that the outcome is the same every time. A `FleetGrid` stands where Flower's message broker would: it hands each round
to a function and returns the replies in the order of the vehicles. A `GuardedStrategy` lets none of Flower's strategies
see an update that is not finite or far longer than the others, nor a round with too few; then the old adapter stays.
Sums are taken in float64, so equal updates average to themselves.

Sources: Flower (Beutel et al., arXiv 2007.14390); McMahan 2017 (FedAvg), Li 2020 (FedProx), Reddi 2021 (FedAdam),
Yin 2018 (median and trimmed mean).

Not here: when a round takes place and what it costs (`adapter_exchange`), what a vehicle does in one (`adapting`).
"""

import io
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn, assert_never

import numpy as np
from numpy.typing import NDArray

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when flwr is imported
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedMedian, FedProx, FedTrimmedAvg, Strategy

from roadbits.codecs.adaptation.update import Vector
from roadbits.fleet.adaptation_words import StrategyWords

_ARRAY, _EXAMPLES = "adapter", "num-examples"
_MOST_NORMS = 10.0
"""An update so many times as long as the median one is refused."""
_FEWEST_COMPARED = 3
_LARGEST = float(np.finfo(np.float16).max)
"""Adapters travel in float16: see `codecs.adaptation.update`."""
_MOST_VEHICLES, _MOST_FRAMES = 2**31, 2**20

logging.getLogger("flwr").setLevel(logging.WARNING)


class Update(NamedTuple):
    """What a vehicle sends back in a round.

    Attributes:
        vehicle: its number.
        vector: its adapter's parameters, float32 (n,); None if there is none to be had.
        frames: it was trained on.
        reason: why there is none, or why it was refused; else empty.
    """

    vehicle: int
    vector: Vector | None
    frames: int
    reason: str = ""


class Round(NamedTuple):
    """What became of a round.

    Attributes:
        number: from 1.
        accepted: vehicles whose updates counted.
        refused: others, and why; those whose replies do not even say who they are under Flower's number of the node.
        has_quorum: whether the adapter changed at all.
    """

    number: int
    accepted: tuple[int, ...]
    refused: dict[int, str]
    has_quorum: bool


TrainRound = Callable[[int, Vector, Sequence[int]], Sequence[Update]]
"""Given a round's number, its adapter's parameters and vehicles, returns what they send back."""


def share(
    words: StrategyWords,
    start: Vector,
    rounds: int,
    quorum: int,
    vehicles: Callable[[int], Sequence[int]],
    train: TrainRound,
) -> tuple[Vector, list[Round]]:
    """Run a strategy for some rounds and return the shared parameters, float32 (n,), and what became of each round.

    Args:
        words: of the strategy.
        start: parameters to begin with.
        rounds: how many.
        quorum: updates that a round needs.
        vehicles: return who takes part in a round, by its number from 1.
        train: computes a round.
    """
    _identify()
    strategy = GuardedStrategy(words, quorum, _MOST_VEHICLES)
    grid = FleetGrid(vehicles, train, strategy.absent)
    return strategy.shared(grid, start, rounds), strategy.rounds


class FleetGrid(Grid):
    """The vehicles of one domain, as Flower sees them: stable numbers, replies in their order."""

    def __init__(
        self,
        vehicles: Callable[[int], Sequence[int]],
        train: TrainRound,
        absent: dict[int, str],
    ) -> None:
        """Take who takes part in a round, what computes it, and where to note who sent nothing, and why."""
        self._vehicles, self._train, self._absent = vehicles, train, absent
        self._round = 1

    def get_node_ids(self) -> Iterable[int]:
        """Return who takes part in the coming round; Flower's strategies take all of them."""
        return list(self._vehicles(self._round))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Compute a round; vehicles that send nothing are absent."""
        by_vehicle = {message.metadata.dst_node_id: message for message in messages}
        if not by_vehicle:
            return []
        number, vector = asked_by(next(iter(by_vehicle.values())))
        updates = self._train(number, vector, sorted(by_vehicle))
        self._round = number + 1
        self._absent.clear()
        self._absent.update({update.vehicle: update.reason for update in updates if update.vector is None})
        return [
            Message(reply_of(update.vehicle, update.vector, update.frames), reply_to=by_vehicle[update.vehicle])
            for update in sorted(updates, key=lambda update: update.vehicle)
            if update.vector is not None
        ]

    def set_run(self, run: object) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> NoReturn:
        """Not needed by strategies."""
        _unused()

    def create_message(self, *arguments: object, **settings: object) -> Message:
        """Not needed by strategies."""
        _unused()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not needed by strategies."""
        _unused()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not needed by strategies."""
        _unused()


def _unused() -> NoReturn:
    raise NotImplementedError("a fleet's grid only sends and receives whole rounds")


class GuardedStrategy(Strategy):
    """One of Flower's strategies, behind checks of every update, and of their number."""

    def __init__(self, words: StrategyWords, quorum: int, num_vehicles: int) -> None:
        """Take the strategy's words, how many updates a round needs, and how many vehicles there are."""
        self._inner, self._quorum, self._num_vehicles = _strategy_of(words), quorum, num_vehicles
        self._before: NDArray[np.float64] = np.zeros(0)
        self._asked: list[int] = []
        self.absent: dict[int, str] = {}
        self.rounds: list[Round] = []

    def shared(self, grid: Grid, start: Vector, rounds: int, timeout_s: float = 3600.0) -> Vector:
        """Run for some rounds and return the shared parameters, float32 (n,).

        Args:
            grid: of the vehicles.
            start: parameters to begin with.
            rounds: how many.
            timeout_s: a round waits for its vehicles, where they answer in their own time.
        """
        result = self.start(grid=grid, initial_arrays=_record_of(start), num_rounds=rounds, timeout=timeout_s)
        last = _vector_of(result.arrays) if result.arrays.keys() else start
        return last.astype(np.float32)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each vehicle."""
        self._before = _vector_of(arrays)
        there = list(grid.get_node_ids())
        messages = [*self._inner.configure_train(server_round, arrays, config, grid)] if there else []
        self._asked = [message.metadata.dst_node_id for message in messages]
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the strategy makes of the updates that count; nothing if they are too few."""
        answers = sorted(replies, key=lambda message: message.metadata.src_node_id)
        silent = {*self._asked} - {message.metadata.src_node_id for message in answers}
        refused = dict.fromkeys(sorted(silent), "it did not answer in time") | self.absent
        messages, vectors = {}, {}
        for message in answers:
            try:
                vehicle, vector = _update_in(message, self._num_vehicles)
                if vehicle in messages:
                    raise ReplyError(f"it says that it is vehicle {vehicle}, as another did")
                messages[vehicle], vectors[vehicle] = message, vector
            except ReplyError as error:
                refused[message.metadata.src_node_id] = str(error)
        refused |= implausible(vectors, self._before)
        accepted = tuple(vehicle for vehicle in sorted(messages) if vehicle not in refused)
        has_quorum = len(accepted) >= self._quorum
        self.rounds.append(Round(server_round, accepted, refused, has_quorum))
        if not has_quorum:
            return None, None
        arrays, metrics = self._inner.aggregate_train(server_round, [messages[vehicle] for vehicle in accepted])
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no message: adapters are measured by real bytes, elsewhere."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing."""
        return None

    def summary(self) -> None:
        """Tell what the strategy tells."""
        self._inner.summary()


def implausible(vectors: dict[int, NDArray[np.float64]], before: NDArray[np.float64]) -> dict[int, str]:
    """Return which vehicles' updates must not count, and why.

    Args:
        vectors: float64 (n,) by vehicle.
        before: what they began from, float64 (n,).
    """
    refused = {}
    for vehicle, vector in vectors.items():
        if vector.shape != before.shape:
            refused[vehicle] = f"the update has shape {vector.shape}, expected {before.shape}"
        elif not np.isfinite(vector).all():
            refused[vehicle] = "the update holds numbers that are not finite"
        elif np.abs(vector).max(initial=0) > _LARGEST:
            refused[vehicle] = f"the update holds numbers beyond {_LARGEST:g}, which an adapter cannot travel with"
    lengths = {v: float(np.linalg.norm(vector - before)) for v, vector in vectors.items() if v not in refused}
    if len(lengths) < _FEWEST_COMPARED:
        return refused
    usual = float(np.median([*lengths.values()]))
    for vehicle, length in lengths.items():
        if length > _MOST_NORMS * usual:
            refused[vehicle] = f"the update moved by {length:.3g}, {_MOST_NORMS:g} times the usual {usual:.3g} is most"
    return refused


def _strategy_of(words: StrategyWords) -> Strategy:
    """Return Flower's strategy; every vehicle that takes part is asked, and none waited for."""
    everyone: dict[str, Any] = {"min_train_nodes": 1, "min_available_nodes": 1}
    match words.kind:
        case "fedavg":
            return FedAvg(**everyone)
        case "fedprox":
            return FedProx(proximal_mu=words.proximal, **everyone)
        case "fedadam":
            return FedAdam(eta=words.server_rate, tau=words.tau, **everyone)
        case "trimmed-mean":
            return FedTrimmedAvg(beta=words.trimmed, **everyone)
        case "median":
            return FedMedian(**everyone)
        case unknown:
            assert_never(unknown)


def _record_of(vector: NDArray[np.floating]) -> ArrayRecord:
    return ArrayRecord({_ARRAY: Array(np.asarray(vector, np.float64))})


def _vector_of(arrays: ArrayRecord) -> NDArray[np.float64]:
    vector: NDArray[np.float64] = arrays[_ARRAY].numpy()
    return vector


def _arrays_in(message: Message) -> ArrayRecord:
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    return arrays


def asked_by(message: Message) -> tuple[int, Vector]:
    """Return the round's number and its adapter's parameters, float32 (n,), of a message to a vehicle."""
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    return int(str(config["server-round"])), _vector_of(_arrays_in(message)).astype(np.float32)


def reply_of(vehicle: int, vector: Vector, frames: int) -> RecordDict:
    """Return what a vehicle sends back: its number, its adapter's parameters (n,), and how many frames taught it."""
    return RecordDict(
        {
            "arrays": _record_of(vector),
            "metrics": MetricRecord({_EXAMPLES: frames}),
            "sender": ConfigRecord({"vehicle": vehicle}),
        }
    )


class ReplyError(Exception):
    """A reply that is no update; the message says what it is."""


def _update_in(message: Message, num_vehicles: int) -> tuple[int, NDArray[np.float64]]:
    """Return the vehicle and the parameters (n,) in a reply, of which nothing is taken on trust.

    Raises:
        ReplyError: if it holds an error, or is not what `reply_of` makes.
    """
    if message.has_error():
        raise ReplyError(message.error.reason or "it failed without a reason")
    content = message.content
    kinds = {"arrays": ArrayRecord, "metrics": MetricRecord, "sender": ConfigRecord}
    if set(content) != set(kinds) or not all(isinstance(content[name], kind) for name, kind in kinds.items()):
        raise ReplyError(f"its reply holds {sorted(content)}, expected {sorted(kinds)}")
    arrays, metrics, sender = content.array_records["arrays"], content.metric_records["metrics"], content["sender"]
    assert isinstance(sender, ConfigRecord)
    vehicle, frames = sender.get("vehicle"), metrics.get(_EXAMPLES)
    if set(arrays) != {_ARRAY} or set(metrics) != {_EXAMPLES}:
        raise ReplyError("its reply holds other arrays or metrics than an adapter and the number of its frames")
    if not isinstance(vehicle, int) or not 0 <= vehicle < num_vehicles:
        raise ReplyError(f"it says that it is vehicle {vehicle!r}, there are {num_vehicles}")
    if not isinstance(frames, int) or not 1 <= frames <= _MOST_FRAMES:
        raise ReplyError(f"vehicle {vehicle} says that it learned {frames!r} frames, expected 1 to {_MOST_FRAMES}")
    try:
        return vehicle, _numbers_in(arrays[_ARRAY].data)
    except ValueError as error:
        raise ReplyError(f"vehicle {vehicle} sent no array: {error}") from error


def _numbers_in(data: bytes) -> NDArray[np.float64]:
    """Return the numbers (n,) of a `.npy` file: no more than its bytes hold, whatever its head claims.

    NumPy's own reader allocates what the head claims, and opens archives.

    Raises:
        ValueError: if it is no file of float64 (n,).
    """
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("expected version 1.0 of the format")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # NumPy parses the head as Python, which can fail in many ways
        raise ValueError(f"its head is damaged: {error}") from error
    if dtype != np.float64 or len(shape) != 1:
        raise ValueError(f"expected float64 (n,), got {dtype} {shape}")
    body = data[stream.tell() :]
    if len(body) != 8 * shape[0]:
        raise ValueError(f"its head tells of {shape[0]} numbers, {len(body)} bytes came")
    return np.frombuffer(body, np.float64)


def _identify() -> None:
    """Tell Flower who speaks, which its newer messages ask for and only its own engine sets."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:  # flwr before 1.3x asks for nothing
        return
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
