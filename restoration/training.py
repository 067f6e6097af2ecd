"""Training a restorer on pairs of degraded and original images, in phases that can stop and go on.

A first phase learns pixels. What follows is an objective's own: `mse` goes on with pixels, `perceptual` adds what a
pretrained network sees, `gan` that and critics which must not tell restored images from originals, `task` what a
segmenter computes. Every objective is given equally many steps at most. Convolution kernels are moved by Muon, the rest
by Adam; the weights that restore are a running mean.

Every random number of a step depends on the seed and the step alone; a checkpoint is bytes that hold weights, moments,
critics and the step, so that another process on another machine can go on.

Not here: where pairs come from, and who measures.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from roadbits.codecs.codec import Image
from roadbits.codecs.precision import best_device, reduced_precision
from roadbits.codecs.training.muon import Muon
from roadbits.restoration.condition import Condition, condition_vector
from roadbits.restoration.critics import FeatureCritic
from roadbits.restoration.losses import Sight, deceiving, feature_distance, judging, likeness
from roadbits.restoration.network import STRIDE, Restorer

Objective = Literal["pixels", "mse", "perceptual", "gan", "task"]

_WARM_UP_STEPS = 50
_LOWEST_FACTOR = 0.02
_CLIP = 1.0
_MEAN = 0.99
"""How much the running mean of the weights keeps in each step, once there are enough."""
_UNTOLD = 0.1
"""Share of the crops whose codec is not told."""


class RestorerTrainingError(Exception):
    """A training that went astray, or a checkpoint that is damaged or another's; the message says which."""


@dataclass(frozen=True)
class Pull:
    """What an objective's loss is made of.

    Attributes:
        exponent: of the difference of pixels, 1 or 2.
        pixels: weight of its mean.
        sight: weight of the distance between features.
        critics: weight of deceiving the critics of the features.
    """

    exponent: int
    pixels: float
    sight: float = 0.0
    critics: float = 0.0


PULLS: dict[Objective, Pull] = {
    "pixels": Pull(1, 5.0),
    "mse": Pull(2, 50.0),
    "perceptual": Pull(1, 1.0, 1.0),
    "gan": Pull(1, 1.0, 1.0, 0.2),
    "task": Pull(1, 1.0, 1.0),
}


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        objective: of this phase.
        steps: of this phase.
        batch_size: crops a step.
        crop: side of a crop in pixels, a multiple of `STRIDE`.
        learning_rate: at its highest.
        critic_rate: of the critics.
        seed: of initial weights, crops and noise.
    """

    objective: Objective
    steps: int
    batch_size: int = 8
    crop: int = 128
    learning_rate: float = 1e-3
    critic_rate: float = 2e-4
    seed: int = 0

    def factor(self, step: int) -> float:
        """Return the share of the full learning rate at a step: a short rise, then half a cosine."""
        fall = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
        return min(1.0, (step + 1) / _WARM_UP_STEPS) * max(_LOWEST_FACTOR, fall)


@dataclass(frozen=True, eq=False)
class Pairs:
    """What one codec makes of images at one point.

    Attributes:
        degraded: uint8 (H, W, 3) each.
        originals: uint8 (H, W, 3) each, in the same order.
        conditions: of each.
    """

    degraded: Sequence[Image]
    originals: Sequence[Image]
    conditions: Sequence[Condition]


class Batches(Protocol):
    """Where a step's pairs come from."""

    def batch(self, step: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is degraded, float32 (B, C, h, w) in 0..1, originals (B, 3, h, w), and conditions (B, D)."""
        ...


class PairCrops:
    """Batches of pairs of crops, the codecs and points visited evenly, in phase with blocks, flipped at random."""

    def __init__(self, pairs: Sequence[Pairs], codecs: Sequence[str], size: int, seed: int) -> None:
        """Take pairs of each codec and point.

        Raises:
            ValueError: if there are none, or an image is smaller than a crop.
        """
        if not pairs or not all(some.originals for some in pairs):
            raise ValueError("no reference frames to learn from: expected at least one for each codec and point")
        smallest = min(min(image.shape[:2]) for some in pairs for image in some.originals)
        if smallest < size:
            raise ValueError(f"crops of {size} pixels do not fit into a reference frame with a side of {smallest}")
        self._pairs, self._codecs, self._size, self._seed = pairs, codecs, size, seed

    def batch(self, step: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return degraded and original crops float32 (B, 3, h, w) in 0..1, and conditions (B, D)."""
        rng = np.random.default_rng((self._seed, step))
        some = [self._pair(rng, step * num + slot) for slot in range(num)]
        degraded, originals, told = (np.stack(each) for each in zip(*some, strict=True))
        return image_batch(degraded), image_batch(originals), torch.from_numpy(told)

    def _pair(self, rng: np.random.Generator, turn: int) -> tuple[Image, Image, NDArray[np.float32]]:
        pairs = self._pairs[turn % len(self._pairs)]
        chosen, size = int(rng.integers(len(pairs.originals))), self._size
        height, width = pairs.originals[chosen].shape[:2]
        top, left = (STRIDE * int(rng.integers((side - size) // STRIDE + 1)) for side in (height, width))
        step = -1 if rng.random() < 0.5 else 1
        cut = [
            image[chosen][top : top + size, left : left + size][:, ::step]
            for image in (pairs.degraded, pairs.originals)
        ]
        told = condition_vector(pairs.conditions[chosen], self._codecs, rng.random() >= _UNTOLD)
        return cut[0], cut[1], told


def image_batch(images: NDArray[np.uint8]) -> Tensor:
    """Return images uint8 (B, H, W, 3) as float32 (B, 3, H, W) in 0..1."""
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return x.float().div(255).to(memory_format=torch.channels_last)


class RestorerTraining:
    """One phase of a restorer's training."""

    def __init__(
        self, spec: Any, recipe: Recipe, crops: Batches, sight: Sight | None, sizes: Sequence[int], learned: str = ""
    ) -> None:
        """Prepare to train.

        Args:
            spec: the network, a `RestorerSpec`.
            recipe: how.
            crops: where from.
            sight: a frozen network that objectives other than of pixels need.
            sizes: channels of its levels.
            learned: a digest of what is learned from, which a checkpoint must share; empty if its owner sees to that.

        Raises:
            ValueError: if the objective needs a sight and has none.
        """
        self._pull = PULLS[recipe.objective]
        if self._pull.sight and sight is None:
            raise ValueError(f"objective {recipe.objective} needs a network to see with")
        self.spec, self.recipe, self.step = spec, recipe, 0
        self._identity = json.dumps([asdict(spec), asdict(recipe), learned])
        self._crops, self._sight = crops, sight
        self._device = best_device()
        torch.manual_seed(recipe.seed)
        self.network, self._mean = (self._built().to(self._device) for _ in range(2))
        self._mean.load_state_dict(self.network.state_dict())
        self._critic = self._built_critic(sizes).to(self._device) if self._pull.critics else None
        kernels = [parameter for parameter in self.network.parameters() if parameter.ndim == 4]
        rest = [parameter for parameter in self.network.parameters() if parameter.ndim != 4]
        self._optimisers: list[torch.optim.Optimizer] = [
            Muon([{"params": kernels, "lr": recipe.learning_rate}]),
            torch.optim.Adam(rest, lr=recipe.learning_rate, betas=(0.9, 0.99)),
        ]
        if self._critic is not None:
            self._critic_optimiser = torch.optim.Adam(
                self._critic.parameters(), lr=recipe.critic_rate, betas=(0.5, 0.99)
            )

    def _built(self) -> nn.Module:
        """Return the network with the weights that torch's seed gives."""
        return Restorer(self.spec)

    def _built_critic(self, sizes: Sequence[int]) -> nn.Module:
        """Return the critic, given the channels of the sight's levels."""
        return FeatureCritic(sizes)

    def begin_from(self, weights: bytes) -> None:
        """Take the weights that another phase ended with.

        Raises:
            RestorerTrainingError: if they are not those of such a network.
        """
        try:
            tensors = load_tensors(weights)
            self.network.load_state_dict(tensors)
            self._mean.load_state_dict(tensors)
        except (SafetensorError, RuntimeError) as error:
            raise RestorerTrainingError(f"these are no weights of this restorer: {error}") from error

    def run(self, until: int) -> Iterator[float]:
        """Train up to step `until`, yielding the loss of every step.

        Raises:
            RestorerTrainingError: if the loss or a gradient is no finite number; the weights have not moved then.
        """
        while self.step < min(until, self.recipe.steps):
            loss = self._one_step()
            self.step += 1
            yield loss

    def _one_step(self) -> float:
        recipe = self.recipe
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, self.step)).generate_state(1)[0]))
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * recipe.factor(self.step)
        batch = self._crops.batch(self.step, recipe.batch_size)
        degraded, originals, told = (each.to(self._device) for each in batch)
        with reduced_precision(self._device):
            restored = self.network(degraded, told)
            loss = self._pull.pixels * likeness(restored, originals, self._pull.exponent)
            if self._pull.sight:
                loss, view = self._seen(loss, restored, originals)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self._check_finite(("loss", loss), ("gradient's norm", norm))
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self._follow()
        if self._critic is not None:
            self._judge(view)
        return loss.item()

    def _seen(self, loss: Tensor, restored: Tensor, originals: Tensor) -> tuple[Tensor, "View"]:
        """Return the loss with what is seen of both images, and that without gradients."""
        assert self._sight is not None
        seen = list(self._sight(restored))
        with torch.no_grad():
            seen_originals = list(self._sight(originals))
        loss = loss + self._pull.sight * feature_distance(seen, seen_originals)
        view = View(restored, originals, seen, seen_originals)
        if self._critic is not None:
            self._critic.requires_grad_(False)
            loss = loss + self._pull.critics * self._deceit(view)
            self._critic.requires_grad_(True)
        return loss, view.detached()

    def _deceit(self, view: "View") -> Tensor:
        """Return how far the critic is from taking restored images for originals."""
        assert self._critic is not None
        return deceiving(self._critic(view.seen))

    def _judgement(self, view: "View") -> Tensor:
        """Return how far the critic is from telling restored images from originals."""
        assert self._critic is not None
        return judging(self._critic(view.seen), self._critic(view.seen_originals))

    def _judge(self, view: "View") -> None:
        """Train the critic for a step."""
        with reduced_precision(self._device):
            loss = self._judgement(view)
        loss.backward()  # type: ignore[no-untyped-call]
        self._check_finite(("critic's loss", loss))
        self._critic_optimiser.step()
        self._critic_optimiser.zero_grad()

    @torch.no_grad()
    def _follow(self) -> None:
        keeps = min(_MEAN, (self.step + 1) / (self.step + 10))
        for mean, value in zip(self._mean.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1 - keeps)

    def _check_finite(self, *values: tuple[str, Tensor]) -> None:
        for name, value in values:
            if not torch.isfinite(value):
                raise RestorerTrainingError(
                    f"{self.recipe.objective}, step {self.step + 1} of {self.recipe.steps}: the {name} is "
                    f"{value.item()}: lower restoration.learning_rate; the last checkpoint is kept"
                )

    @property
    def weights(self) -> bytes:
        """The weights to restore with, as safetensors."""
        return save_tensors({name: value.cpu().contiguous() for name, value in self._mean.state_dict().items()})

    def save(self) -> bytes:
        """Return a checkpoint."""
        modules = {"network": self.network, "mean": self._mean, "critic": self._critic}
        tensors = {
            f"{name}/{key}": value.cpu().contiguous()
            for name, module in modules.items()
            if module is not None
            for key, value in module.state_dict().items()
        }
        for number, optimiser in enumerate(self._all_optimisers()):
            for index, moments in optimiser.state_dict()["state"].items():
                for key, value in moments.items():
                    tensors[f"optimiser/{number}/{index}/{key}"] = value.cpu().contiguous()
        tensors["step"] = torch.tensor(self.step)
        tensors["identity"] = torch.frombuffer(bytearray(self._identity.encode()), dtype=torch.uint8)
        return save_tensors(tensors)

    def load(self, checkpoint: bytes) -> None:
        """Go on from a checkpoint.

        Raises:
            RestorerTrainingError: if it is damaged or another training's.
        """
        try:
            tensors = load_tensors(checkpoint)
            identity, ours = json.loads(tensors.pop("identity").numpy().tobytes()), json.loads(self._identity)
            if identity != ours:
                raise RestorerTrainingError(f"the checkpoint is another training's: {identity} there, {ours} here")
            step = int(tensors.pop("step"))
            for name, module in (("network", self.network), ("mean", self._mean), ("critic", self._critic)):
                if module is not None:
                    module.load_state_dict(_below(name, tensors))
            for number, optimiser in enumerate(self._all_optimisers()):
                state = optimiser.state_dict()
                state["state"] = {}
                for key, value in _below(f"optimiser/{number}", tensors).items():
                    index, moment = key.split("/")
                    state["state"].setdefault(int(index), {})[moment] = value
                optimiser.load_state_dict(state)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise RestorerTrainingError(f"this is no checkpoint of a restorer's training: {error}") from error
        self.step = step

    def _all_optimisers(self) -> list[torch.optim.Optimizer]:
        return [*self._optimisers, *([self._critic_optimiser] if self._critic is not None else [])]


@dataclass(frozen=True, eq=False)
class View:
    """What critics may look at.

    Attributes:
        restored: images (B, 3, h, w).
        originals: likewise.
        seen: what the sight sees of the restored ones.
        seen_originals: and of the originals.
    """

    restored: Tensor
    originals: Tensor
    seen: Sequence[Tensor]
    seen_originals: Sequence[Tensor]

    def detached(self) -> "View":
        """Return the same without gradients."""
        seen = [level.detach() for level in self.seen]
        return View(self.restored.detach(), self.originals, seen, self.seen_originals)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}/"): value for name, value in tensors.items() if name.startswith(f"{prefix}/")}
