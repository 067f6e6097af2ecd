"""The training loop: one network, all its rates at once, resumable to the bit.

The loss of an image at level k is `bpp_estimate + lambda_k * 255^2 * mse`, x in 0..1, weighted by sqrt(1 / lambda_k):
without the weight the highest rate would drown the others. Kernels of convolutions are moved by Muon, everything else
by Adam, the entropy model with its own learning rate. The learning rate warms up, stays, and falls to zero over the
last part of the steps, so that a run can be prolonged from any checkpoint before its fall.

Every random number of a step depends on the seed and the step alone; a checkpoint is weights, moments and the step.

Not here: images (`crops`), what becomes of a trained network (`freezing`).
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from roadbits.codecs.neural.cae import Forward
from roadbits.codecs.neural.scaling import TRAINED_GAINS, with_trained_gains
from roadbits.codecs.precision import reduced_precision
from roadbits.codecs.training.mask_decay import fading_buffers
from roadbits.codecs.training.muon import Muon

_WARM_UP_STEPS = 200
_AVERAGED_STEPS = 100


class CheckpointError(Exception):
    """A checkpoint that is damaged or of another configuration."""


class TrainingError(Exception):
    """A training that went astray; its weights are still those of the last good step."""


class Network(Protocol):
    """What can be trained: a module from images and levels to reconstructions and bits."""

    stride: int
    entropy_model: nn.Module

    def __call__(self, x: Tensor, levels: Tensor) -> Forward:
        """Return reconstructions and bits of images (B, 3, H, W) at levels (B,)."""
        ...


class Samples(Protocol):
    """Where a step's batch comes from."""

    def batch(self, step: int, num: int) -> NDArray[Any]:
        """Return what a step trains on (num, ...), always the same: images uint8 (num, 3, size, size), or latents."""
        ...


class Pass(NamedTuple):
    """A pass through a network, with which a step adds to its gradients.

    Attributes:
        network: from images and levels to reconstructions and bits.
        lambdas: of its levels (L,).
        weights: of the losses at its levels (L,).
    """

    network: Callable[[Tensor, Tensor], Forward]
    lambdas: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        lambdas: of the rate levels, rising.
        steps: in all.
        batch_size: crops a step.
        crop: side of a crop, in pixels.
        learning_rate: of the transforms.
        entropy_learning_rate: of the entropy model and the gains.
        cooldown: share of the steps over which the learning rates fall to zero.
        clip: largest norm of the gradient of each group of parameters: kernels, those of h_a and h_s, entropy model and
            gains, the rest.
        seed: of initial weights, crops, levels and noise.
        hyper_learning_rate: of the kernels of h_a and h_s; as the other transforms' if None.
    """

    lambdas: tuple[float, ...]
    steps: int
    batch_size: int = 4
    crop: int = 192
    learning_rate: float = 1e-3
    entropy_learning_rate: float = 3e-3
    cooldown: float = 0.3
    clip: float = 1.0
    seed: int = 0
    hyper_learning_rate: float | None = None

    def factor(self, step: int) -> float:
        """Return the share of the full learning rate at a step."""
        falling = max(1.0, self.cooldown * self.steps)
        return min(1.0, (step + 1) / _WARM_UP_STEPS, max(0.0, (self.steps - step) / falling))

    @property
    def fall_begins(self) -> int:
        """The first step of the cooldown."""
        return self.steps - round(self.cooldown * self.steps)


@dataclass(frozen=True)
class Progress:
    """Where a training stands; averages over the last hundred steps.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: weighted loss.
        bpp_estimate: bits per pixel from the likelihoods, over all levels.
        psnr_db: of the mean squared error over all levels; None where nothing is lost.
        steps_per_s: since this process began.
    """

    step: int
    steps: int
    loss: float
    bpp_estimate: float
    psnr_db: float | None
    steps_per_s: float


class RateDistortionTraining:
    """A training that can stop and go on."""

    def __init__(self, network: nn.Module, schedule: Schedule, crops: Samples, identity: dict[str, object]) -> None:
        """Prepare to train.

        Args:
            network: a `Network`.
            schedule: how.
            crops: where from.
            identity: what a checkpoint must have in common with this training beside the schedule.
        """
        self.network, self.schedule, self._crops = network.to(memory_format=torch.channels_last), schedule, crops
        self.step = 0
        self._identity = json.loads(json.dumps({**asdict(schedule), **identity}))
        self._optimisers = _optimisers(network, schedule)
        self._recent: list[tuple[float, float, float]] = []

    def run(self, until: int) -> Iterator[Progress]:
        """Train up to step `until`, yielding after every step.

        Raises:
            TrainingError: if the loss or a gradient is no finite number; the weights have not moved then.
        """
        started, first = time.perf_counter(), self.step
        while self.step < min(until, self.schedule.steps):
            self._recent = [*self._recent[1 - _AVERAGED_STEPS :], self._one_step()]
            self.step += 1
            loss, bpp, mse = np.mean(self._recent, axis=0)
            speed = (self.step - first) / (time.perf_counter() - started)
            psnr_db = -10 * math.log10(mse) if mse > 0 else None
            yield Progress(self.step, self.schedule.steps, float(loss), float(bpp), psnr_db, speed)

    def _one_step(self) -> tuple[float, float, float]:
        """Do one step and return loss, bits per pixel and mean squared error."""
        schedule, batch = self.schedule, self.schedule.batch_size
        # From one number alone torch would take 32 bits, and every seed would draw the same.
        torch.manual_seed(int(np.random.SeedSequence((schedule.seed, self.step)).generate_state(1)[0]))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_lr"] * schedule.factor(self.step)
        x = self._batch(self._crops.batch(self.step, batch))
        results = torch.stack([self._add_gradients(x, one) for one in self._passes()])
        norms = [
            nn.utils.clip_grad_norm_(group["params"], schedule.clip)
            for optimiser in self._optimisers
            for group in optimiser.param_groups
        ]
        loss, bpp, mse = results[:, 0].sum(), results[:, 1].mean(), results[:, 2].mean()
        self._check_finite(loss, torch.stack(norms))
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        return loss.item(), bpp.item(), mse.item()

    def _batch(self, samples: NDArray[Any]) -> Tensor:
        """Return what the networks take, (B, 3, H, W) in 0..1, given images uint8 (B, 3, H, W)."""
        return torch.from_numpy(samples).float().div(255).to(memory_format=torch.channels_last)

    def _passes(self) -> list[Pass]:
        """Return what this step runs on its batch, one after the other; their losses are added."""
        lambdas = torch.tensor(self.schedule.lambdas)
        return [Pass(cast(Network, self.network), lambdas, torch.rsqrt(lambdas / lambdas.mean()))]

    def _add_gradients(self, x: Tensor, one: Pass) -> Tensor:
        """Run one pass forth and back and return its loss, bits per pixel and mean squared error (3,)."""
        # Each step visits the levels as evenly as it has images, in an order and from a place drawn for it.
        order = torch.randperm(len(one.lambdas))
        levels = order[(torch.arange(len(x)) + self.step * len(x)) % len(order)]
        lmbda = one.lambdas[levels]
        with reduced_precision(x.device):
            forward = one.network(x, levels.float())
        bpp = forward.bits / self.schedule.crop**2
        if forward.x_hat is x:  # of an entropy model alone
            mse = torch.zeros(len(x))
        else:
            mse = torch.mean((forward.x_hat - x) ** 2, dim=tuple(range(1, x.ndim)))
        loss = torch.mean((bpp + lmbda * 255**2 * mse) * one.weights[levels])
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack((loss, bpp.mean(), mse.mean())).detach()

    def _check_finite(self, loss: Tensor, norms: Tensor) -> None:
        for name, values in (("loss", loss), ("gradient's norm", norms.max())):
            if not torch.isfinite(values):
                raise TrainingError(
                    f"step {self.step + 1} of {self.schedule.steps}: the {name} is {values.item()}: the training has "
                    "diverged, begin again with lower learning rates; the last checkpoint is kept"
                )

    def save(self, path: Path) -> None:
        """Write a checkpoint, complete or not at all.

        Raises:
            TrainingError: if a number is not finite; the file stays as it was.
        """
        tensors = {f"network/{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        for number, optimiser in enumerate(self._optimisers):
            for index, moments in optimiser.state_dict()["state"].items():
                for name, value in moments.items():
                    tensors[f"optimiser/{number}/{index}/{name}"] = value.contiguous()
        broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
        if broken:
            raise TrainingError(f"step {self.step}: {broken[0]} is not finite: begin again with lower learning rates")
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        save_file(tensors, unfinished, {"step": str(self.step), "identity": json.dumps(self._identity)})
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Steps and cooldown may differ as long as neither schedule had begun to cool down.

        Raises:
            CheckpointError: if it cannot be read or belongs to another configuration.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            step, identity = int(metadata["step"]), json.loads(metadata["identity"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{path} is no checkpoint of a codec's training: {error}") from error
        self._check_identity(path, step, identity)
        try:
            self.network.load_state_dict(
                {name.removeprefix("network/"): value for name, value in tensors.items() if name.startswith("network/")}
            )
        except RuntimeError as error:
            raise CheckpointError(f"{path} holds other networks than these, of another version? {error}") from error
        for number, optimiser in enumerate(self._optimisers):
            state = optimiser.state_dict()
            state["state"] = {}
            for name, value in tensors.items():
                if name.startswith(f"optimiser/{number}/"):
                    index, moment = name.split("/")[2:]
                    state["state"].setdefault(int(index), {})[moment] = value
            optimiser.load_state_dict(state)
        self.step = step

    def load_weights(self, path: Path) -> None:
        """Begin from the weights of another training's checkpoint.

        Gains are taken only from a network with the same levels; bottleneck scaling keeps those of the highest.
        What says how far an encoder has shrunk stays as it is; a context's channels come in the other's order, which
        its weights are of.

        Raises:
            CheckpointError: if it cannot be read or holds another network, one whose encoder is shrunk already, or none
                of what this training would leave as it is.
        """
        try:
            with safe_open(path, "pt") as file:
                names = [name for name in file.keys() if name.startswith("network/")]  # noqa: SIM118
                weights = {name.removeprefix("network/"): file.get_tensor(name) for name in names}
                identity = json.loads((file.metadata() or {}).get("identity", "{}"))
            own, fading = self.network.state_dict(), fading_buffers(self.network)
            weights = with_trained_gains(own, weights)
            if accounts := sorted(fading & weights.keys()):
                raise CheckpointError(f"cannot begin from {path}: its encoder is shrunk already ({accounts[0]})")
            kept = {
                name: value
                for name, value in own.items()
                if name in fading or ("gain." in name and not _fits(name, value, weights))
            }
            still = {name for name, parameter in self.network.named_parameters() if not parameter.requires_grad}
            if missing := sorted(still & kept.keys()):
                raise CheckpointError(f"cannot begin from {path}: {missing[0]} fits not, and would not be trained here")
            theirs, ours = identity.get("lambdas"), self._identity["lambdas"]
            if theirs != ours and any("gain." in name and not name.endswith(TRAINED_GAINS) for name in still):
                raise CheckpointError(f"cannot begin from {path}: its gains are of lambdas {theirs}, not {ours}")
            weights = {name: value for name, value in weights.items() if "gain." not in name or name in own}
            self.network.load_state_dict({**weights, **kept})
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"cannot begin from {path}: {error}") from error

    def _check_identity(self, path: Path, step: int, identity: dict[str, object]) -> None:
        differing = [
            f"{key}: {identity.get(key)!r} there, {self._identity.get(key)!r} here"
            for key in sorted({*identity, *self._identity})
            if identity.get(key) != self._identity.get(key) and key not in ("steps", "cooldown")
        ]
        theirs = [float(str(identity.get(key, 0))) for key in ("steps", "cooldown")]
        if theirs != [self.schedule.steps, self.schedule.cooldown]:
            fall = replace(self.schedule, steps=int(theirs[0]), cooldown=theirs[1]).fall_begins
            if step > min(self.schedule.fall_begins, fall):
                there, here = (
                    f"{steps:g} with a cooldown of {cooldown:g}"
                    for steps, cooldown in (theirs, (self.schedule.steps, self.schedule.cooldown))
                )
                differing.append(f"steps: {there} there, {here} here, and step {step} is in a cooldown")
        if differing:
            raise CheckpointError(f"{path} is of another configuration: {'; '.join(differing)}")


def _fits(name: str, value: Tensor, weights: dict[str, Tensor]) -> bool:
    """Return whether weights have a tensor of that name and shape."""
    return name in weights and weights[name].shape == value.shape


def _optimisers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for the kernels and Adam for the rest, of what may move."""
    kernels: list[nn.Parameter] = []
    hyper_kernels: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    entropy: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("entropy_model") or "gain" in name:
            entropy.append(parameter)
        elif parameter.ndim < 4:
            rest.append(parameter)
        else:
            (hyper_kernels if name.startswith("h_") else kernels).append(parameter)
    groups = [
        {"params": rest, "lr": schedule.learning_rate},
        {"params": entropy, "lr": schedule.entropy_learning_rate},
    ]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups)]
    if kernels:
        rates = schedule.learning_rate, schedule.hyper_learning_rate or schedule.learning_rate
        optimisers.insert(0, Muon([{"params": kernels, "lr": rates[0]}, {"params": hyper_kernels, "lr": rates[1]}]))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["full_lr"] = group["lr"]
    return optimisers
