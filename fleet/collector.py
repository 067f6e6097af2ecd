"""The server's front door: checks every upload, counts a repeated one once, quarantines a bad one with its reason.

A verdict: *delivered*; *late* (arrived after the deadline: stored, but trains nothing); *rejected* (the payload is
damaged, foreign, or not what the upload says it is: stored for inspection); or the fate the vehicle already knows,
*lost*, *backlog* or *dropped*.

A payload that arrives before its adapter waits for it and counts from then on; if it never comes, that is the reason.

Not here: the store's files (`store`), decoding (`decoding`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from roadbits.codecs.bitstream import BitstreamError, unpack
from roadbits.codecs.catalogue import codec_named, codec_of
from roadbits.fleet.rate_control import ControlState
from roadbits.fleet.store import Record, Store
from roadbits.fleet.throughput import Queued, Throughput
from roadbits.fleet.uplink import US_PER_S
from roadbits.fleet.vehicle import Arm, ArmState, Upload


class Verdict(NamedTuple):
    """What becomes of an upload.

    Attributes:
        name: as above.
        reason: for it.
        usable_us: when the payload could be decoded: once it was here, and its adapter; None if it never arrived.
    """

    name: str
    reason: str
    usable_us: int | None


class Collector:
    """Receives uploads into a store."""

    def __init__(self, store: Store, deadline_s: float, adapters_here_us: Mapping[bytes, int] | None = None) -> None:
        """Take what the verdicts depend on.

        Args:
            store: takes the uploads.
            deadline_s: age in seconds beyond which an upload is late.
            adapters_here_us: since when each adapter is here, in virtual microseconds, by its hash.
        """
        self._store, self._adapters_here_us = store, adapters_here_us or {}
        self._deadline_us = round(deadline_s * US_PER_S)

    def receive(self, uploads: Sequence[Upload], vehicle: int, next_frame: int, states: tuple[ArmState, ...]) -> int:
        """Store a vehicle's uploads and acknowledge them by returning how many were new.

        Raises:
            StoreError: if they could not be stored; nothing of the batch is acknowledged then.
        """
        state = json.dumps([asdict(state) for state in states])
        return self._store.add(map(self._record, uploads), vehicle, next_frame, state)

    def _record(self, upload: Upload) -> Record:
        verdict = self._verdict(upload)
        return Record(
            upload_id(upload.arm, upload.vehicle, upload.index),
            upload.arm.codec,
            upload.arm.point,
            upload.vehicle,
            upload.index,
            upload.camera,
            upload.domain,
            upload.height,
            upload.width,
            upload.captured_us,
            upload.ready_us,
            verdict.usable_us,
            upload.payload_bytes,
            verdict.name,
            verdict.reason,
            upload.copies,
            upload.encode_s,
            upload.encode_macs,
            upload.used_point,
            upload.payload,
        )

    def _verdict(self, upload: Upload) -> Verdict:
        arrival_us = upload.arrival_us
        if upload.fate != "sent" or upload.payload is None or arrival_us is None:
            return Verdict(upload.fate, upload.reason, arrival_us)
        try:
            container = unpack(upload.payload)
            codec = codec_of(upload.payload, (codec_named(upload.arm.source),), self._adapters_here_us)
        except BitstreamError as error:
            return Verdict("rejected", str(error), arrival_us)
        if (container.height, container.width) != (upload.height, upload.width):
            sizes = f"{container.height} x {container.width} pixels, the camera has {upload.height} x {upload.width}"
            return Verdict("rejected", f"payload is {sizes}", arrival_us)
        if codec.name != upload.arm.source:
            reason = f"payload is of {codec.name}, the vehicle uses {upload.arm.source}"
            return Verdict("rejected", reason, arrival_us)
        usable_us = max(arrival_us, self._adapters_here_us.get(container.adapter_hash, 0))
        age_us = usable_us - upload.captured_us
        if age_us > self._deadline_us:
            came = "arrived" if usable_us == arrival_us else "its adapter arrived"
            return Verdict("late", f"{came} {age_us / US_PER_S:.1f} s after capture", usable_us)
        return Verdict("delivered", "", usable_us)


def upload_id(arm: Arm, vehicle: int, frame: int) -> str:
    """Return the name under which an upload counts once, however often it arrives."""
    return f"{arm.key}/{vehicle}/{frame}"


def states_from(text: str) -> tuple[ArmState, ...]:
    """Return the states that `receive` stored with a vehicle."""
    return tuple(
        ArmState(
            entry["finished_bits"],
            entry["encoder_free_us"],
            tuple(Queued(*upload) for upload in entry["in_flight"]),
            Throughput(**entry["throughput"]),
            ControlState.of(entry["control"]),
        )
        for entry in json.loads(text)
    )
