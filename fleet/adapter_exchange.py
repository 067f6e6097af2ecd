"""When adapters are learned and who has which from when on, in virtual time, and what that takes of the links.

Adapters go before frames: while one is under way, in either direction, its vehicle's link carries nothing else. What a
link carries of them is known before any frame is sent, so the frames' link is the same link with those times taken out.

Federated: a vehicle that has noticed a new domain and has its frames reports to the server; once there are a quorum,
rounds begin. The round's adapter goes down to every vehicle that has reported, each trains while it does not encode,
and its update goes up; whoever is later than the round waits is left out of it. A vehicle that reports after the last
round gets the adapter as it is. Local: each vehicle trains alone, uses its adapter at once, and sends it ahead of what
it codes with it. Central: vehicles send their frames without loss, the server trains.

Not here: noticing and training (`adapting`), which of it is computed anew (`codec_adaptation`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from roadbits.codecs.adaptation.danice import AdapterError
from roadbits.codecs.adaptation.update import Vector, packed, set_vector, unadapted, unpacked, vector_of
from roadbits.fleet.adaptation_words import Adaptation, Sharing
from roadbits.fleet.adapting import Lesson, Lessons, Notice, source_codec
from roadbits.fleet.devices import ladder_of
from roadbits.fleet.feasibility import DeviceError
from roadbits.fleet.fittings import Equipped
from roadbits.fleet.links import link_for
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.seeds import Purpose, generator_for
from roadbits.fleet.sharing import Round, Update, share
from roadbits.fleet.sources import frame_size
from roadbits.fleet.uplink import US_PER_S

REPORT_BYTES = 32
"""A vehicle's report, and a server's request to train: who, which domain, which codec."""
_TRAINING_PASSES = 3
"""A step backward takes twice the multiply-accumulates of the step forward."""


@dataclass(frozen=True)
class RoundNote:
    """What became of a round: see `sharing.Round`; times in virtual seconds."""

    number: int
    begin_s: float
    end_s: float
    accepted: list[int]
    refused: dict[str, str]
    has_quorum: bool


@dataclass
class Exchange:
    """Everything that happened around one domain's adapters.

    Attributes:
        domain: which.
        equipped: who has which from when on.
        lessons: what was learned from.
        rounds: of federated training.
        sent_bytes: up and down, of each vehicle.
        trained_macs: multiply-accumulates of training on board, of each vehicle.
    """

    domain: str
    equipped: list[Equipped] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    rounds: list[RoundNote] = field(default_factory=list)
    sent_bytes: Counter[int] = field(default_factory=Counter)
    trained_macs: Counter[int] = field(default_factory=Counter)

    @property
    def traffic_bytes(self) -> int:
        """Bytes up and down, of all vehicles."""
        return self.sent_bytes.total()

    @property
    def train_macs(self) -> int:
        """Multiply-accumulates of training on board, of all vehicles."""
        return self.trained_macs.total()


class AdapterLinks:
    """The vehicles' links as adapters use them, before all frames."""

    def __init__(self, scenario: Scenario) -> None:
        """Open the links of a scenario's fleet."""
        self._fleet, self._seed = scenario.fleet, scenario.seed
        self._taken: list[list[tuple[int, int]]] = [[] for _ in range(scenario.fleet.num_vehicles)]

    def carry(self, vehicle: int, at_us: int, num_bytes: int) -> int:
        """Send something to or from a vehicle at some time, and return when it is there, in microseconds.

        It waits for what the link carries already, and uses what that leaves: of two domains' adapters the one that is
        worked out last may be the first to travel.
        """
        taken = self._taken[vehicle]
        arrival_us = link_for(self._fleet, self._seed, vehicle, taken).offer(at_us, num_bytes)
        self._taken[vehicle] = sorted([*taken, *_between(at_us, arrival_us, taken)])
        return arrival_us

    def taken(self, vehicle: int) -> tuple[tuple[int, int], ...]:
        """Return when a vehicle's link carried adapters, in microseconds."""
        return tuple(self._taken[vehicle])


class Computers:
    """The vehicles' computers as trainings use them: one at a time, whatever their domains."""

    def __init__(self) -> None:
        """Begin with all of them idle."""
        self._busy: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def train(self, vehicle: int, at_us: int, seconds: float) -> int:
        """Train for some seconds from some time on, and return when that is done, in microseconds.

        It waits for other trainings, and uses the time that they leave, as adapters do on links.
        """
        busy = self._busy[vehicle]
        done_us, left_us = at_us, _us(seconds)
        for begin_us, end_us in busy:
            idle_us = max(0, begin_us - done_us)
            if left_us <= idle_us:
                break
            left_us -= idle_us
            done_us = max(done_us, end_us)
        done_us += left_us
        self._busy[vehicle] = sorted([*busy, *_between(at_us, done_us, busy)])
        return done_us


def training_macs(words: Adaptation, steps: int) -> int:
    """Return the multiply-accumulates of some steps of training, forward and backward."""
    codec = source_codec(words)
    cost = codec.complexity(words.watched_at, words.crop, words.crop)
    return _TRAINING_PASSES * steps * words.batch_size * (cost.encode_macs + cost.decode_macs)


def training_seconds(scenario: Scenario, vehicle: int, steps: int) -> float:
    """Return how long a vehicle trains for some steps, beside encoding its frames.

    Raises:
        DeviceError: if encoding leaves it no time.
        DataError: if the size of its frames has to be read and cannot be.
    """
    words, fleet, cameras = scenario.adaptation, scenario.fleet, scenario.cameras
    assert words is not None
    group = fleet.group_of(vehicle)
    device = group.device
    assert device.gmac_per_s is not None
    height, width = frame_size(cameras, scenario.seed, vehicle, fleet.num_vehicles)
    point = words.watched_at
    encode_s = float(ladder_of(device, source_codec(words), height, width, (point,)).seconds[0])
    idle = device.duty - encode_s / cameras.interval_s
    if idle <= 0:
        raise DeviceError(
            f"group {group.name}: encoding takes {encode_s:.3g} s of every {cameras.interval_s:.3g} s, its device may "
            f"compute for {device.duty:.0%} of the time: none is left to train an adapter in"
        )
    return training_macs(words, steps) / 1e9 / device.gmac_per_s / (idle * words.idle_share)


TrainAll = Callable[[str, Sequence[Lessons]], list[bytes | str]]
"""Given a name and jobs, returns the update of each, or why there is none."""


@dataclass(frozen=True)
class Exchanges:
    """The ways to come by an adapter, in one arm's fleet and with one seed.

    Attributes:
        scenario: the run's words.
        seed: of training.
        links: of the vehicles.
        train: computes trainings.
        computers: of the vehicles.
    """

    scenario: Scenario
    seed: int
    links: AdapterLinks
    train: TrainAll
    computers: Computers = field(default_factory=Computers)

    @property
    def words(self) -> Adaptation:
        """The words of adaptation."""
        assert self.scenario.adaptation is not None
        return self.scenario.adaptation

    def by(self, sharing: Sharing, domain: str, notices: Sequence[Notice]) -> Exchange:
        """Return what happens around a domain's adapters where they are shared in some way."""
        match sharing:
            case "federated":
                return _Federated(self, domain, notices).exchange()
            case "local":
                return self._local(domain, notices)
            case "central":
                return self._central(domain, notices)
            case unknown:
                assert_never(unknown)

    def job(self, lessons: Sequence[Lesson], seed: int) -> Lessons:
        """Return the training of an adapter from beginning to end in one place."""
        words = self.words
        return Lessons(self.scenario, tuple(lessons), b"", 0, words.all_steps, seed, words.with_residuals)

    def _local(self, domain: str, notices: Sequence[Notice]) -> Exchange:
        found = Exchange(domain, lessons=[notice.lesson for notice in notices])
        jobs = [self.job([notice.lesson], seed_of(self.seed, notice.vehicle)) for notice in notices]
        for notice, update in zip(notices, self.train(f"local, {domain}", jobs), strict=True):
            if isinstance(update, str):
                continue
            seconds = training_seconds(self.scenario, notice.vehicle, self.words.all_steps)
            trained_us = self.computers.train(notice.vehicle, notice.ready_us, seconds)
            told_us = self.links.carry(notice.vehicle, trained_us, len(update))
            # It may use what it trained at once: the link carries the adapter before any frame coded with it.
            found.equipped.append(Equipped(notice.vehicle, domain, trained_us, told_us, update))
            found.sent_bytes[notice.vehicle] += len(update)
            found.trained_macs[notice.vehicle] += training_macs(self.words, self.words.all_steps)
        return found

    def _central(self, domain: str, notices: Sequence[Notice]) -> Exchange:
        """Let the server train on the frames of those who sent theirs within a round's time of the quorum.

        It waits for that time to pass, unless it has heard from the whole fleet.
        """
        found = Exchange(domain)
        arrivals = {}
        for notice in notices:
            arrivals[notice.vehicle] = self.links.carry(notice.vehicle, notice.ready_us, notice.lossless_bytes)
            found.sent_bytes[notice.vehicle] += notice.lossless_bytes
        opened_us = _nth(arrivals.values(), self.words.quorum)
        if opened_us is None:
            return found
        closes_us = opened_us + _us(self.words.round_s)
        pooled = [notice for notice in notices if arrivals[notice.vehicle] <= closes_us]
        found.lessons = [notice.lesson for notice in pooled]
        (update,) = self.train(f"central, {domain}", [self.job(found.lessons, self.seed)])
        if isinstance(update, str):
            return found
        assert self.words.server_gmac_per_s is not None
        seconds = training_macs(self.words, self.words.all_steps) / 1e9 / self.words.server_gmac_per_s
        complete = len(pooled) == self.scenario.fleet.num_vehicles
        begins_us = max(arrivals[notice.vehicle] for notice in pooled) if complete else closes_us
        trained_us = begins_us + _us(seconds)
        self.hand_out(found, update, {notice.vehicle: max(trained_us, arrivals[notice.vehicle]) for notice in notices})
        return found

    def hand_out(self, found: Exchange, update: bytes, asked_us: Mapping[int, int]) -> None:
        """Send an adapter down to vehicles, at the times when it was there and they had asked for it."""
        for vehicle, at_us in asked_us.items():
            here_us = self.links.carry(vehicle, at_us, len(update))
            found.equipped.append(Equipped(vehicle, found.domain, here_us, at_us, update))
            found.sent_bytes[vehicle] += len(update)


class _Federated:
    """The rounds of one domain."""

    def __init__(self, exchanges: Exchanges, domain: str, notices: Sequence[Notice]) -> None:
        self._exchanges, self._words = exchanges, exchanges.words
        self._notices = {notice.vehicle: notice for notice in notices}
        self._found = Exchange(domain)
        self._reported_us: dict[int, int] = {}
        self._now_us = 0
        self._times: dict[int, tuple[int, int]] = {}

    def exchange(self) -> Exchange:
        """Hold the rounds and hand out what came of them."""
        for vehicle, notice in self._notices.items():
            self._reported_us[vehicle] = self._carry(vehicle, notice.ready_us, REPORT_BYTES)
        opened_us = _nth(self._reported_us.values(), self._words.quorum)
        if opened_us is None:
            return self._found
        self._now_us = opened_us
        vector, rounds = share(
            self._words.strategy,
            first_vector(self._words),
            self._words.rounds,
            self._words.quorum,
            self._taking_part,
            self._train_round,
        )
        self._found.rounds = [self._noted(each) for each in rounds]
        taught = {vehicle for each in rounds if each.has_quorum for vehicle in each.accepted}
        self._found.lessons = [self._notices[vehicle].lesson for vehicle in sorted(taught)]
        if taught:
            asked_us = {vehicle: max(self._now_us, at_us) for vehicle, at_us in self._reported_us.items()}
            self._exchanges.hand_out(self._found, update_of(self._words, vector), asked_us)
        return self._found

    def _carry(self, vehicle: int, at_us: int, num_bytes: int) -> int:
        self._found.sent_bytes[vehicle] += num_bytes
        return self._exchanges.links.carry(vehicle, at_us, num_bytes)

    def _taking_part(self, number: int) -> list[int]:
        """Return who is asked in a round: of those that have reported by now, all or as many as may be."""
        there = sorted(vehicle for vehicle, at_us in self._reported_us.items() if at_us <= self._now_us)
        most = self._words.vehicles_per_round
        if most is None or most >= len(there):
            return there
        scenario = self._exchanges.scenario
        luck = generator_for(scenario.seed, Purpose.SHARING, self._exchanges.seed, number)
        return sorted(int(vehicle) for vehicle in luck.choice(there, most, replace=False))

    def _train_round(self, number: int, vector: Vector, vehicles: Sequence[int]) -> list[Update]:
        """Let vehicles train from a round's adapter, and return what arrives in time."""
        words, begin_us = self._words, self._now_us
        closes_us = begin_us + _us(words.round_s)
        start = update_of(words, vector) if number > 1 else b""
        scenario, seed = self._exchanges.scenario, self._exchanges.seed
        lessons = [self._notices[vehicle].lesson for vehicle in vehicles]
        jobs = [lessons_of_round(scenario, seed, number, lesson, start) for lesson in lessons]
        trained = self._exchanges.train(f"round {number}, {self._found.domain}", jobs)
        updates, ends = [], [begin_us]
        for vehicle, outcome in zip(vehicles, trained, strict=True):
            asked_us = self._carry(vehicle, begin_us, len(start) or REPORT_BYTES)
            seconds = training_seconds(scenario, vehicle, words.steps)
            self._found.trained_macs[vehicle] += training_macs(words, words.steps)
            size = REPORT_BYTES if isinstance(outcome, str) else len(outcome)
            # Who was too late for the last round trains for it still.
            trained_us = self._exchanges.computers.train(vehicle, asked_us, seconds)
            arrival_us = self._carry(vehicle, trained_us, size)
            ends.append(min(arrival_us, closes_us))
            updates.append(self._received(vehicle, outcome, (arrival_us - begin_us) / US_PER_S))
        self._now_us = max(ends)
        self._times[number] = begin_us, self._now_us
        return updates

    def _received(self, vehicle: int, outcome: bytes | str, after_s: float) -> Update:
        """Return an update as the server takes it."""
        frames = len(self._notices[vehicle].frames)
        if isinstance(outcome, str):
            return Update(vehicle, None, frames, outcome)
        if after_s > self._words.round_s:
            return Update(vehicle, None, frames, f"its update came after {after_s:.0f} s: too late for the round")
        try:
            return Update(vehicle, vector_of(unpacked(source_codec(self._words).model, outcome)), frames)
        except AdapterError as error:
            return Update(vehicle, None, frames, str(error))

    def _noted(self, one: Round) -> RoundNote:
        begin_us, end_us = self._times.get(one.number, (self._now_us, self._now_us))
        refused = {str(vehicle): reason for vehicle, reason in sorted(one.refused.items())}
        return RoundNote(
            one.number, begin_us / US_PER_S, end_us / US_PER_S, list(one.accepted), refused, one.has_quorum
        )


def first_vector(words: Adaptation) -> Vector:
    """Return the parameters with which rounds begin, float32 (n,)."""
    return vector_of(unadapted(source_codec(words).model, words.with_residuals))


def update_of(words: Adaptation, vector: Vector) -> bytes:
    """Return an adapter of given parameters, float32 (n,), as it travels."""
    enhancement = unadapted(source_codec(words).model, words.with_residuals)
    set_vector(enhancement, vector)
    return packed(enhancement)


def lessons_of_round(scenario: Scenario, seed: int, number: int, lesson: Lesson, start: bytes) -> Lessons:
    """Return the training of one vehicle in a round.

    Args:
        scenario: the run's words.
        seed: of training.
        number: of the round, from 1.
        lesson: what the vehicle learns.
        start: the round's adapter, as it travels; empty in the first.
    """
    words = scenario.adaptation
    assert words is not None
    first, own_seed = (number - 1) * words.steps, seed_of(seed, lesson.vehicle)
    return Lessons(scenario, (lesson,), start, first, words.steps, own_seed, words.with_residuals)


def seed_of(seed: int, vehicle: int) -> int:
    """Return the seed of a vehicle's own training."""
    return int(generator_for(seed, Purpose.SHARING, vehicle).integers(2**31))


def _between(begin_us: int, end_us: int, taken: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return what times taken, in order, leave of the time from one end to the other."""
    left = []
    for other_us, until_us in taken:
        if begin_us < min(other_us, end_us):
            left.append((begin_us, min(other_us, end_us)))
        begin_us = max(begin_us, until_us)
    return [*left, (begin_us, end_us)] if begin_us < end_us else left


def _nth(times_us: Iterable[int], count: int) -> int | None:
    """Return when the last of so many was there; None if there never are."""
    ordered = sorted(times_us)
    return ordered[count - 1] if len(ordered) >= count else None


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)
