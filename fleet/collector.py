"""The server's front door: checks every upload, counts a repeated one once, quarantines a bad one with its reason.

A verdict: *delivered*; *late* (arrived after the deadline: stored, but trains nothing); *rejected* (the payload is
damaged, foreign, or not what the upload says it is: stored for inspection); or the fate the vehicle already knows,
*lost*, *backlog* or *dropped*.

The frames of a clip share its verdict, and its age is that of its first frame.

A payload that arrives before its adapter waits for it and counts from then on; if it never comes, that is the reason.

Not here: the store's files (`store`), decoding (`decoding`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

from roadbits.codecs.bitstream import BitstreamError, unpack
from roadbits.codecs.catalogue import clip_codec_of, codec_of, still_or_clip_codec_named
from roadbits.codecs.codec import AnyCodec, is_clip_codec, is_still_codec
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


class Checked(NamedTuple):
    """What there is to say of a payload.

    Attributes:
        fault: what is wrong with it; empty if nothing.
        captured_us: when its frame, or the first of its clip, was captured.
        usable_us: since when it can be decoded; None if it never arrived.
    """

    fault: str
    captured_us: int
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
        carriers = {(upload.arm, upload.clip): upload for upload in uploads if upload.index == upload.clip}
        checked = {key: self._checked(carrier) for key, carrier in carriers.items()}
        records = [
            self._record(upload, checked[upload.arm, upload.clip] if upload.clip >= 0 else self._checked(upload))
            for upload in uploads
        ]
        return self._store.add(records, vehicle, next_frame, state)

    def _record(self, upload: Upload, checked: "Checked") -> Record:
        verdict = self._verdict(upload, checked)
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
            upload.clip,
            upload.payload,
        )

    def _checked(self, upload: Upload) -> "Checked":
        """Return what is wrong with an upload's payload, and since when it can be decoded."""
        found = Checked("", upload.captured_us, upload.arrival_us)
        if upload.fate != "sent" or upload.payload is None or upload.arrival_us is None:
            return found
        try:
            container = unpack(upload.payload)
            codec = self._codec_of(upload.payload, upload.arm)
        except BitstreamError as error:
            return found._replace(fault=str(error))
        if (container.height, container.width) != (upload.height, upload.width):
            sizes = f"{container.height} x {container.width} pixels, the camera has {upload.height} x {upload.width}"
            return found._replace(fault=f"payload is {sizes}")
        if codec.name != upload.arm.source:
            return found._replace(fault=f"payload is of {codec.name}, the vehicle uses {upload.arm.source}")
        adapter_here_us = self._adapters_here_us.get(container.adapter_hash, 0)
        return found._replace(usable_us=max(upload.arrival_us, adapter_here_us))

    def _codec_of(self, payload: bytes, arm: Arm) -> AnyCodec:
        """Return the codec that made a payload.

        Raises:
            BitstreamError: if it is none that an arm may send.
        """
        own = still_or_clip_codec_named(arm.source)
        if is_clip_codec(own):
            codec = clip_codec_of(payload, (own,))
            # Two settings of one encoder write alike.
            return own if getattr(codec, "codec_id", None) == getattr(own, "codec_id", "") else codec
        return codec_of(payload, (own,) if is_still_codec(own) else (), self._adapters_here_us)

    def _verdict(self, upload: Upload, checked: "Checked") -> Verdict:
        """Return the verdict on a frame's upload, given that on its payload, which its clip may hold."""
        arrival_us = upload.arrival_us
        if upload.fate != "sent" or arrival_us is None or checked.usable_us is None:
            return Verdict(upload.fate, upload.reason, arrival_us)
        if checked.fault:
            return Verdict("rejected", checked.fault, arrival_us)
        age_us = checked.usable_us - checked.captured_us
        if age_us > self._deadline_us:
            came = "arrived" if checked.usable_us == arrival_us else "its adapter arrived"
            return Verdict("late", f"{came} {age_us / US_PER_S:.1f} s after capture", checked.usable_us)
        return Verdict("delivered", "", checked.usable_us)


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
