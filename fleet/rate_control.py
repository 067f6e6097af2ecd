"""One vehicle's encoder in one arm: always the same point, or the point that a policy chooses for each frame.

What an encoding takes is charged in full, trials included.

Not here: the choice itself (`policies`), what becomes of the payload (`vehicle`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from roadbits.codecs.codec import Codec, Image, OperatingPoint
from roadbits.codecs.metrics import bpp
from roadbits.fleet.devices import Ladder, ladder_of, radio_joules
from roadbits.fleet.policies import Account, Expected, Policy, Situation, policy_of
from roadbits.fleet.rate_profile import Profile, Trial, profile_of, trial_crop, trial_positions, tried
from roadbits.fleet.rules import Rule
from roadbits.fleet.scenario import Device, Group

_FOLLOWED = 0.9
"""Share of a frame's error in the predicted rate by which the prediction moves (Xu's proportional part)."""
_MOST_ERROR = 1.5
"""Of the logarithm of a rate, followed from one frame."""


@dataclass(frozen=True)
class ControlState:
    """What a policy's vehicle remembers from frame to frame.

    Attributes:
        trials: on the first frame, none before it; later ones where the first had none of the points that a frame of
            another size leaves to choose from.
        log_bias: natural logarithm of frames' rates over the profile's.
        account: what the drive has taken so far.
    """

    trials: tuple[Trial, ...] = ()
    log_bias: float = 0.0
    account: Account = field(default_factory=Account)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ControlState":
        """Return the state whose `asdict` these values are."""
        trials = tuple(Trial(*trial) for trial in values["trials"])
        return cls(trials, values["log_bias"], Account(**values["account"]))


class Encoding(NamedTuple):
    """One frame's encoding, or that it was skipped.

    Attributes:
        payload: None if it was skipped.
        point: at which it was encoded; None likewise.
        seconds: of the device, trials included.
        macs: trials included.
    """

    payload: bytes | None
    point: OperatingPoint | None
    seconds: float
    macs: int


class Encoder(Protocol):
    """Encodes the frames of a drive, one after the other."""

    state: ControlState
    codec: Codec

    def encode(self, image: Image, situation: Situation) -> Encoding:
        """Return the payload of an image (H, W, 3), or that it was skipped.

        Raises:
            ValueError: if the codec cannot take the image.
        """
        ...


class FixedPoint:
    """Encodes every frame at one point."""

    def __init__(self, codec: Codec, device: Device, point: OperatingPoint) -> None:
        """Take the codec, the device that runs it, and the point."""
        self.codec, self._device, self._point = codec, device, point
        self.state = ControlState()

    def encode(self, image: Image, situation: Situation) -> Encoding:
        """Return the payload of an image (H, W, 3).

        Raises:
            ValueError: if the codec cannot take it.
        """
        height, width = image.shape[:2]
        ladder = ladder_of(self._device, self.codec, height, width, (self._point,))
        payload = self.codec.encode(image, self._point)
        return Encoding(payload, self._point, float(ladder.seconds[0]), int(ladder.macs[0]))


class RateControl:
    """Encodes every frame at the point that a policy chooses."""

    def __init__(self, codec: Codec, device: Device, policy: Policy, state: ControlState) -> None:
        """Take the codec, the device that runs it, the policy, and where the drive stands."""
        self.codec, self._device, self._policy = codec, device, policy
        self.state = state
        self._ladders: dict[tuple[int, int], tuple[Codec, Ladder]] = {}

    def encode(self, image: Image, situation: Situation) -> Encoding:
        """Return the payload of an image (H, W, 3), or that it was skipped.

        Raises:
            ValueError: if the codec cannot take the image.
        """
        height, width = image.shape[:2]
        ladder = self._ladder(height, width)
        usable = self._policy.usable(ladder, situation.interval_s, self._device.duty)
        if not usable.any():  # a frame larger than those that the device was checked for
            return Encoding(None, None, 0.0, 0)
        profile, spent = profile_of(ladder, self.state.trials), _NOTHING
        if not np.isfinite(profile.log_bpp[usable]).any():
            spent = self._try_points(image, ladder, usable)
            profile = profile_of(ladder, self.state.trials)
        expected = self._expected(ladder, profile, usable, height * width)
        position = self._policy.choose(expected, situation, self.state.account)
        if position is None:
            self._remember(self._policy.charged(self.state.account, None, spent.joules), 0.0)
            return Encoding(None, None, spent.seconds, spent.macs)
        payload = self.codec.encode(image, ladder.points[position])
        rate = bpp(len(payload), height, width)
        joules = spent.joules + float(ladder.joules[position]) + radio_joules(self._device, len(payload))
        self._remember(
            self._policy.charged(self.state.account, rate, joules), math.log(rate / float(expected.bpp[position]))
        )
        seconds, macs = float(ladder.seconds[position]), int(ladder.macs[position])
        return Encoding(payload, ladder.points[position], spent.seconds + seconds, spent.macs + macs)

    def _ladder(self, height: int, width: int) -> Ladder:
        codec, ladder = self._ladders.get((height, width), (None, None))
        if codec is not self.codec or ladder is None:  # another one, where an adapter was put on it
            ladder = ladder_of(self._device, self.codec, height, width)
            self._ladders[height, width] = self.codec, ladder
        return ladder

    def _try_points(self, image: Image, ladder: Ladder, usable: NDArray[np.bool_]) -> "_Spent":
        """Add usable points to the profile and return what it took."""
        positions = trial_positions(ladder, usable)
        crop = trial_crop(self.codec, image)
        trials = tried(self.codec, crop, ladder, positions, self._policy.needs_quality)
        # As they would have been on the first frame, which the profile is of; on that one the bias is 0.
        as_first = [trial._replace(log_bpp=trial.log_bpp - self.state.log_bias) for trial in trials]
        self.state = replace(self.state, trials=(*self.state.trials, *as_first))
        points = tuple(ladder.points[position] for position in positions)
        height, width = crop.shape[:2]
        costs = ladder_of(self._device, self.codec, height, width, points)
        seconds, macs, joules = costs.seconds, costs.macs, costs.joules
        if self._policy.needs_quality:
            seconds, macs = seconds + costs.decode_seconds, macs + costs.decode_macs
            joules = joules + costs.decode_joules
        return _Spent(float(seconds.sum()), int(macs.sum()), float(joules.sum()))

    def _expected(self, ladder: Ladder, profile: Profile, usable: NDArray[np.bool_], pixels: int) -> Expected:
        usable = usable & np.isfinite(profile.log_bpp)
        rates = np.exp(np.where(usable, profile.log_bpp, 0.0) + self.state.log_bias)
        payload_bytes = rates * pixels / 8
        joules = ladder.joules + radio_joules(self._device, 1) * payload_bytes
        return Expected(usable, rates, profile.psnr_db, payload_bytes, ladder.seconds, joules)

    def _remember(self, account: Account, log_error: float) -> None:
        """Keep what a frame took, and follow its error in the predicted rate."""
        step = _FOLLOWED * min(_MOST_ERROR, max(-_MOST_ERROR, log_error))
        self.state = replace(self.state, log_bias=self.state.log_bias + step, account=account)


class _Spent(NamedTuple):
    """What trials took."""

    seconds: float
    macs: int
    joules: float


_NOTHING = _Spent(0.0, 0, 0.0)


def encoder_for(rule: Rule, codec: Codec, group: Group, deadline_s: float, state: ControlState) -> Encoder:
    """Return the encoder of an arm in a vehicle of a group, where an earlier segment left it."""
    if isinstance(rule, OperatingPoint):
        return FixedPoint(codec, group.device, rule)
    return RateControl(codec, group.device, policy_of(rule, deadline_s), state)
