"""A vehicle: captures frames, encodes them, and queues payloads for its uplink, in virtual time.

An arm with a codec of clips holds frames until a clip is complete: it is one payload, and its frames share its fate.
Where a drive goes on with another camera's frames, a clip ends.

A drive is cut into segments. A segment is a pure function of the vehicle's words, its position and the state in which
the last segment left the vehicle, so any worker may compute it, and compute it again after a crash.

A frame's fate here: *dropped* if the encoder is still busy with the frame before the last, if its policy skips it, or
if the send buffer would overflow (the newest frame goes); *backlog* if it has not arrived when the links close; *lost*
if it vanished on the way; else *sent*: it reached the collector, which has the last word.

Not here: encoding at a fixed point or by a policy (`rate_control`), the collector's checks (`collector`), who runs a
segment (`actors`, `backend`).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from roadbits.codecs.catalogue import codec_named, still_or_clip_codec_named
from roadbits.codecs.codec import OperatingPoint, clip_of, is_clip_codec
from roadbits.fleet.adaptation_words import SHARINGS, Sharing
from roadbits.fleet.cameras.frame import DataError, Frame
from roadbits.fleet.devices import ladder_of
from roadbits.fleet.fittings import Fitting, Version
from roadbits.fleet.links import link_for
from roadbits.fleet.policies import Situation
from roadbits.fleet.rate_control import ControlState, Encoding, encoder_for
from roadbits.fleet.rules import SEGMENT_FRAMES, Way
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.seeds import Purpose, generator_for
from roadbits.fleet.sources import train_source
from roadbits.fleet.throughput import Queued, Throughput
from roadbits.fleet.uplink import US_PER_S

ENCODER_BUSY, BUFFER_FULL, SKIPPED = "encoder busy", "send buffer full", "skipped"
"""Why a frame is dropped."""


@dataclass(frozen=True)
class Arm:
    """One codec at one operating point, or under one policy: a fleet of its own, with links of its own."""

    codec: str
    point: str

    @property
    def sharing(self) -> Sharing | None:
        """How its vehicles come by adapters, which its codec's name tells behind a `+`; None if they have none."""
        return next((sharing for sharing in SHARINGS if self.codec.endswith(f"+{sharing}")), None)

    @property
    def source(self) -> str:
        """The codec's name, adapters aside."""
        return self.codec.removesuffix(f"+{self.sharing}")

    @property
    def key(self) -> str:
        """A name for files and tables, for example `jpeg:quality=30`."""
        return f"{self.codec}:{self.point}"


@dataclass(frozen=True)
class Upload:
    """What became of one frame of one arm.

    Attributes:
        arm: codec and operating point.
        vehicle: its number, from 0.
        index: the frame's position in the vehicle's drive.
        camera: the camera's name.
        domain: the frame's domain.
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        captured_us: when it was captured, in virtual microseconds.
        ready_us: when its payload was queued; equal to `captured_us` if it never was.
        arrival_us: when the link carries its last bit, after the links close for a backlog; None if it was dropped.
        payload_bytes: what was queued, retransmissions included; 0 if it was dropped.
        fate: `sent`, `lost`, `backlog` or `dropped`.
        reason: why it was dropped, else empty.
        payload: what arrived; None unless sent.
        copies: how often it was sent; 0 if it was dropped.
        encode_s: time the device spent on encoding.
        encode_macs: multiply-accumulates it spent.
        used_point: at which it was encoded; empty if it never was.
        clip: position of the first frame of its clip, whose upload holds the payload of all; -1 for a still.
    """

    arm: Arm
    vehicle: int
    index: int
    camera: str
    domain: str
    height: int
    width: int
    captured_us: int
    ready_us: int
    arrival_us: int | None = None
    payload_bytes: int = 0
    fate: str = "dropped"
    reason: str = ""
    payload: bytes | None = None
    copies: int = 0
    encode_s: float = 0.0
    encode_macs: int = 0
    used_point: str = ""
    clip: int = -1


@dataclass(frozen=True)
class ArmState:
    """Where a segment leaves one arm of a vehicle.

    Attributes:
        finished_bits: end of the link's queue (`TraceUplink.finished_bits`).
        encoder_free_us: when the encoder has done all frames so far.
        in_flight: queued uploads that had not left the send buffer.
        throughput: of the link, as far as the vehicle has seen it.
        control: what its policy remembers.
    """

    finished_bits: int = 0
    encoder_free_us: int = 0
    in_flight: tuple[Queued, ...] = ()
    throughput: Throughput = field(default_factory=Throughput)
    control: ControlState = field(default_factory=ControlState)


@dataclass(frozen=True)
class Segment:
    """What a worker needs to compute one segment of one vehicle's drive.

    Attributes:
        scenario: the whole run's words.
        vehicle: its number.
        first: position of the segment's first frame.
        states: per arm, as the segment before left it.
        fittings: what the vehicle has on board, by way of sharing.
    """

    scenario: Scenario
    vehicle: int
    first: int
    states: tuple[ArmState, ...]
    fittings: Mapping[str, Fitting] = field(default_factory=dict)


def ways_of(scenario: Scenario) -> dict[Arm, Way]:
    """Return every (codec, operating point or policy) of a scenario, in its order, and how it sends frames."""
    return {Arm(name, str(way)): way for _, name, way in scenario.ways}


def arms_of(scenario: Scenario) -> tuple[Arm, ...]:
    """Return every (codec, operating point or policy) of a scenario, in its order."""
    return tuple(ways_of(scenario))


def drive(segment: Segment) -> tuple[list[Upload], tuple[ArmState, ...]]:
    """Compute one segment: the fates of its frames in every arm, in order of capture, and the states it leaves.

    Raises:
        DataError: if a frame cannot be read.
        UplinkError: if the uplink is unusable.
    """
    scenario = segment.scenario
    source = train_source(scenario.cameras, scenario.seed, segment.vehicle, scenario.fleet.num_vehicles)
    close_us = _us(source.last_time_s) + _us(scenario.fleet.drain_s)
    lanes = [
        _Lane(scenario, arm, position, segment, state, close_us)
        for position, (arm, state) in enumerate(zip(arms_of(scenario), segment.states, strict=True))
    ]
    frames = itertools.islice(source.starting_at(segment.first), SEGMENT_FRAMES)
    uploads = [upload for frame in frames for lane in lanes for upload in lane.capture(frame)]
    uploads += [upload for lane in lanes for upload in lane.end()]
    return uploads, tuple(lane.state for lane in lanes)


def _us(seconds: float) -> int:
    return round(seconds * US_PER_S)


class _Lane:
    """One vehicle in one arm."""

    def __init__(
        self, scenario: Scenario, arm: Arm, position: int, segment: Segment, state: ArmState, close_us: int
    ) -> None:
        vehicle = segment.vehicle
        self._fleet = scenario.fleet
        self._seed = scenario.seed
        self._way = ways_of(scenario)[arm]
        self._interval_us = self._way.every * _us(scenario.cameras.interval_s)
        self._arm, self._position, self._vehicle = arm, position, vehicle
        group = scenario.fleet.group_of(vehicle)
        self._duty = group.device.duty
        self._device = group.device
        self._encoder = (
            None
            if self._way.clip_frames
            else encoder_for(self._way.rule, codec_named(arm.source), group, scenario.fleet.deadline_s, state.control)
        )
        self._clip: list[Frame] = []
        self._fitting = segment.fittings[arm.sharing] if arm.sharing else Fitting()
        self._close_us = close_us
        self._link = link_for(scenario.fleet, scenario.seed, vehicle, self._fitting.taken_us)
        self._link.finished_bits = state.finished_bits
        self._encoder_free_us = state.encoder_free_us
        self._in_flight = list(state.in_flight)
        self._throughput = state.throughput

    @property
    def state(self) -> ArmState:
        """Where this arm stands now."""
        return ArmState(
            self._link.finished_bits,
            self._encoder_free_us,
            tuple(self._in_flight),
            self._throughput,
            self._encoder.state if self._encoder else ControlState(),
        )

    def capture(self, frame: Frame) -> list[Upload]:
        """Take a frame, and say what becomes of it, or of the clip that ends with it or before it."""
        if frame.index % self._way.every:
            return [replace(self._captured(frame), reason=SKIPPED)]
        if not self._way.clip_frames:
            return [self._still(frame)]
        uploads = self.end() if self._clip and self._clip[-1].camera != frame.camera else []
        self._clip.append(frame)
        return uploads + (self.end() if len(self._clip) == self._way.clip_frames else [])

    def end(self) -> list[Upload]:
        """Send the clip that was begun, if there is one, and say what becomes of its frames."""
        frames, self._clip = self._clip, []
        if not frames:
            return []
        last = self._sent_clip(frames)
        uploads = []
        for frame in frames:
            own = self._captured(frame)
            # The clip counts once: with its first frame.
            shares = (
                {} if frame is frames[0] else {"payload": None, "payload_bytes": 0, "encode_s": 0.0, "encode_macs": 0}
            )
            ready_us = last.ready_us if last.used_point else own.captured_us
            changed = {"index": frame.index, "camera": frame.camera, "domain": frame.domain, "ready_us": ready_us}
            uploads.append(
                replace(last, captured_us=own.captured_us, clip=frames[0].index, **changed, **shares)  # type: ignore[arg-type]
            )
        return uploads

    def _sent_clip(self, frames: Sequence[Frame]) -> Upload:
        """Encode and queue a clip, and return what becomes of it as if its last frame held all of it."""
        upload = self._captured(frames[-1])
        if self._encoder_free_us > upload.captured_us + self._interval_us * len(frames):
            return replace(upload, reason=ENCODER_BUSY)
        codec, point = still_or_clip_codec_named(self._arm.source), self._way.rule
        assert is_clip_codec(codec)
        assert isinstance(point, OperatingPoint)
        ladder = ladder_of(self._device, codec, upload.height, upload.width, (point,))
        try:
            payload = codec.encode(clip_of([frame.image for frame in frames]), point)
        except ValueError as error:
            raise DataError(
                f"vehicle {self._vehicle}, frames {frames[0].index} to {frames[-1].index} of {frames[0].camera}, "
                f"{self._arm.key}: {error}"
            ) from error
        seconds, macs = len(frames) * float(ladder.seconds[0]), len(frames) * int(ladder.macs[0])
        begin_us = max(upload.captured_us, self._encoder_free_us)
        # Drawn once for the clip, as for the still that its first frame would be.
        whole = replace(upload, index=frames[0].index)
        return self._queued(whole, Encoding(payload, point, seconds, macs), begin_us)

    def _captured(self, frame: Frame) -> Upload:
        height, width = frame.image.shape[:2]
        now_us = _us(frame.time_s)
        return Upload(self._arm, self._vehicle, frame.index, frame.camera, frame.domain, height, width, now_us, now_us)

    def _still(self, frame: Frame) -> Upload:
        """Encode a frame, queue it and say what becomes of it."""
        upload, now_us = self._captured(frame), _us(frame.time_s)
        if self._encoder_free_us > now_us + self._interval_us:
            return replace(upload, reason=ENCODER_BUSY)
        begin_us = max(now_us, self._encoder_free_us)
        return self._queued(upload, self._encode(frame, begin_us), begin_us)

    def _queued(self, upload: Upload, encoding: Encoding, begin_us: int) -> Upload:
        """Queue what was encoded from some time on, and say what becomes of it."""
        ready_us = begin_us + _us(encoding.seconds)
        self._encoder_free_us = begin_us + _us(encoding.seconds / self._duty)
        upload = replace(upload, encode_s=encoding.seconds, encode_macs=encoding.macs)
        if encoding.payload is None:
            return replace(upload, reason=SKIPPED)
        upload = replace(upload, ready_us=ready_us, used_point=str(encoding.point))
        self._forget_arrived(ready_us)
        if self._backlog_bytes() + len(encoding.payload) > self._fleet.max_backlog_bytes:
            return replace(upload, reason=BUFFER_FULL)
        return self._send(upload, encoding.payload)

    def _encode(self, frame: Frame, begin_us: int) -> Encoding:
        self._forget_arrived(begin_us)
        backlog_bytes = self._backlog_bytes()
        situation = Situation(
            now_s=begin_us / US_PER_S,
            age_s=(begin_us - _us(frame.time_s)) / US_PER_S,
            interval_s=self._interval_us / US_PER_S,
            backlog_bytes=backlog_bytes,
            room_bytes=self._fleet.max_backlog_bytes - backlog_bytes,
            bits_per_s=self._throughput.bits_per_s(begin_us, self._in_flight),
        )
        try:
            assert self._encoder is not None
            if self._arm.sharing:
                update = self._fitting.update_for(frame.domain, begin_us)
                self._encoder.codec = Version(self._arm.source, update).codec()
            return self._encoder.encode(frame.image, situation)
        except ValueError as error:
            raise DataError(
                f"vehicle {self._vehicle}, frame {frame.index} of {frame.camera}, {self._arm.key}: {error}"
            ) from error

    def _backlog_bytes(self) -> int:
        return sum(upload.payload_bytes for upload in self._in_flight)

    def _forget_arrived(self, now_us: int) -> None:
        """Take what has left the send buffer by now out of it, and learn from it how fast the link is."""
        while self._in_flight and self._in_flight[0].arrival_us <= now_us:
            self._throughput = self._throughput.after(self._in_flight.pop(0))

    def _send(self, upload: Upload, payload: bytes) -> Upload:
        """Queue a payload and draw what goes wrong with it on the way."""
        faults = self._fleet.faults
        luck = generator_for(self._seed, Purpose.FAULTS, self._position, self._vehicle, upload.index)
        lost, corrupt, twice = luck.random(3) < (
            faults.loss_probability,
            faults.corrupt_probability,
            faults.duplicate_probability,
        )
        arrivals = [self._queue(upload.ready_us, len(payload)) for _ in range(2 if twice else 1)]
        # A second copy that the closing links cut off did not travel.
        copies = max(1, sum(arrival <= self._close_us for arrival in arrivals))
        upload = replace(upload, arrival_us=arrivals[0], payload_bytes=copies * len(payload), copies=copies)
        if arrivals[0] > self._close_us:
            return replace(upload, fate="backlog")
        if lost:
            return replace(upload, fate="lost")
        if corrupt:
            payload = _with_flipped_bit(payload, int(luck.integers(8 * len(payload))))
        return replace(upload, fate="sent", payload=payload)

    def _queue(self, ready_us: int, payload_bytes: int) -> int:
        """Put one copy into the send buffer and return when it will have left it."""
        begun_us = max([ready_us, *(upload.arrival_us for upload in self._in_flight[-1:])])
        arrival_us = self._link.offer(ready_us, payload_bytes)
        self._in_flight.append(Queued(begun_us, arrival_us, payload_bytes))
        return arrival_us


def _with_flipped_bit(payload: bytes, bit: int) -> bytes:
    damaged = bytearray(payload)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
