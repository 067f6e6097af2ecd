"""Joint training: every step runs several widths of a slim network on one batch and moves the shared kernels once.

    loss = sum over the widths of a step of (bpp_estimate + lambda * 255^2 * mse), each at its own lambdas

A width's pass is gone from memory before the next begins. `sandwich` runs the widest, the narrowest and one of the
others at random, three passes instead of five: for widths 48 to 192 a step takes two thirds of the time. Of widths 8 to
32 (five, one seed, crops of 96 pixels), its first 600 steps left every one at a lower loss than 400 steps of all, which
took longer.

Muon makes the step of a whole kernel orthogonal, so that rows which only the widest uses move as much as those which
all share. In a first look (widths 12, 24 and 48, one seed, 400 steps) the narrow widths do not suffer from that: the
narrowest came to a loss of 4.4 jointly, 5.9 alone (with Adam 15.2 and 15.8), the widest to 3.4 and 2.7 (with Adam 8.0
jointly).

Sources: Yang et al., "Slimmable compressive autoencoders for practical neural image compression", CVPR 2021, for the
sum; Yu, Huang, "Universally slimmable networks and improved training techniques", ICCV 2019, for the sandwich.

Not here: which lambda belongs to a width (`lambda_schedule`), steps and checkpoints (`rate_distortion`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, assert_never

import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.neural.slim_network import SlimNetwork
from roadbits.codecs.neural.slimvc import SlimTemporalPrior
from roadbits.codecs.training.rate_distortion import Pass, RateDistortionTraining, Samples, Schedule

Widths = SlimNetwork[Any] | SlimTemporalPrior


@dataclass(frozen=True)
class JointWidths:
    """How a step shares itself out among the widths.

    Attributes:
        per_step: `all` widths, a `sandwich` of the widest, the narrowest and one of the others, or a single width for
            all steps.
        weighting: `root` weights a loss by sqrt(mean lambda / lambda), the mean taken over all widths, as the loop for
            one width does; `none` is the paper's plain sum.
    """

    per_step: Literal["all", "sandwich"] | int = "all"
    weighting: Literal["root", "none"] = "root"


class JointWidthsTraining(RateDistortionTraining):
    """A training of all widths of a slim network that can stop and go on."""

    def __init__(
        self,
        network: Widths,
        schedule: Schedule,
        crops: Samples,
        identity: dict[str, object],
        joint: JointWidths,
    ) -> None:
        """Prepare to train.

        Args:
            network: of several widths.
            schedule: how; its lambdas are those of the narrowest width's levels first, of the widest's last.
            crops: where from.
            identity: what a checkpoint must have in common with this training beside the schedule and `joint`.
            joint: what a step runs.

        Raises:
            ValueError: if there are not as many lambdas as levels, or the single width is none of the network's.
        """
        if isinstance(joint.per_step, int) and joint.per_step not in network.widths:
            raise ValueError(f"no width {joint.per_step}: choose from {', '.join(map(str, network.widths))}")
        super().__init__(network, schedule, crops, {**asdict(joint), **identity})
        self._slim, self._joint = network, joint
        self.set_lambdas(schedule.lambdas)

    @property
    def lambdas(self) -> tuple[tuple[float, ...], ...]:
        """The lambdas of each width's levels, narrowest first."""
        return tuple(tuple(lambdas.tolist()) for lambdas in self._lambdas)

    def set_lambdas(self, lambdas: Sequence[float]) -> None:
        """Train towards other lambdas from the next step on.

        A checkpoint does not hold them: it belongs to the schedule that the training began with, and whoever changes
        lambdas on the way, as a lambda schedule does, sets them again after `load`.

        Args:
            lambdas: as in the schedule.

        Raises:
            ValueError: if there are not as many as levels, or one is not above 0.
        """
        if len(lambdas) != sum(self._slim.num_levels) or not all(value > 0 for value in lambdas):
            levels = ", ".join(f"{n} of {w}" for n, w in zip(self._slim.num_levels, self._slim.widths, strict=True))
            raise ValueError(f"expected lambdas above 0 for the levels of each width ({levels}), got {list(lambdas)}")
        self._lambdas = torch.split(torch.tensor(lambdas), list(self._slim.num_levels))
        if isinstance(self._slim, SlimNetwork):
            self._slim.state_lambdas(lambdas)

    def _passes(self) -> list[Pass]:
        """Return one pass for each width of this step."""
        return [self._pass(index) for index in self._chosen()]

    def _pass(self, index: int) -> Pass:
        lambdas = self._lambdas[index]
        relative = lambdas / torch.cat(self._lambdas).mean()
        return Pass(partial(self._slim, width=self._slim.widths[index]), lambdas, self._weights(relative))

    def _weights(self, relative: Tensor) -> Tensor:
        match self._joint.weighting:
            case "root":
                return torch.rsqrt(relative)
            case "none":
                return torch.ones_like(relative)
            case _:
                assert_never(self._joint.weighting)

    def _chosen(self) -> list[int]:
        """Return the widths of this step, counted from the narrowest, the widest first."""
        widest = len(self._slim.widths) - 1
        match self._joint.per_step:
            case "all":
                return list(range(widest, -1, -1))
            case "sandwich":
                between = [int(torch.randint(1, widest, ()))] if widest > 1 else []
                return [widest, *between, 0] if widest else [0]
            case int(alone):
                return [self._slim.widths.index(alone)]
            case _:
                assert_never(self._joint.per_step)


class TemporalTraining(JointWidthsTraining):
    """A training of all widths of a temporal entropy model, on latents."""

    def _batch(self, samples: NDArray[Any]) -> Tensor:
        return torch.from_numpy(samples).float()
