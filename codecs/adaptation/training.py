"""Adapting a codec to a few images of a new domain: the loop that moves an enhancement.

The loss is the source's, `bpp_estimate + lambda * 255^2 * mse`, each step at one of the trained rates in turn, weighted
by sqrt(1 / lambda).

Not here: what moves (`enhancement`), when to adapt.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roadbits.codecs.adaptation.context_rate import Moments, context_bits, density_moments
from roadbits.codecs.adaptation.differentiable import finished, run
from roadbits.codecs.adaptation.enhancement import Enhancement
from roadbits.codecs.codec import Image
from roadbits.codecs.entropy import add_noise, bits, gaussian_bits, round_through
from roadbits.codecs.integer import row_of
from roadbits.codecs.neural.still import rounded
from roadbits.codecs.precision import reduced_precision


@dataclass(frozen=True)
class AdaptationRecipe:
    """How to adapt.

    Attributes:
        steps: in all.
        batch_size: crops a step.
        crop: side of a crop in pixels, a multiple of 64.
        learning_rate: of weights; of fine-tuned ones a tenth is plenty.
        density_rate: of the density's warp.
        replay_share: of the crops, from images of the source's domain, where there are some.
        replays_latents: those crops come as the source codec's own latents, which the decoder must go on to decode
            well (knowledge replay, Duan et al., "Towards backward-compatible continual learning of image compression",
            CVPR 2024); else as images, which is joint training.
        clip: largest norm of the weights' gradient.
        proximal: pull towards where the adaptation began, as FedProx has it (Li 2020).
        seed: of crops and noise.
    """

    steps: int = 400
    batch_size: int = 4
    crop: int = 192
    learning_rate: float = 2e-4
    density_rate: float = 1e-2
    replay_share: float = 0.5
    replays_latents: bool = False
    clip: float = 1.0
    proximal: float = 0.0
    seed: int = 0


class AdaptationTraining:
    """An adaptation under way."""

    def __init__(
        self,
        enhancement: Enhancement,
        images: Sequence[Image],
        recipe: AdaptationRecipe,
        replayed: Sequence[Image] = (),
        first_step: int = 0,
    ) -> None:
        """Begin.

        Args:
            enhancement: what moves.
            images: of the domain, uint8 (H, W, 3), sides at least a crop's.
            recipe: how.
            replayed: of the source's domain, to remember it by.
            first_step: to go on from, where others have taken those before; the optimiser begins anew.

        Raises:
            ValueError: if there is no image, or one is smaller than a crop.
        """
        if not images:
            raise ValueError("no image to adapt to: expected at least one")
        smallest = min(min(image.shape[:2]) for image in (*images, *replayed))
        if smallest < recipe.crop:
            raise ValueError(f"crops of {recipe.crop} pixels do not fit into an image with a side of {smallest}")
        self.enhancement, self.step = enhancement, first_step
        self._source, self._recipe = enhancement.source, recipe
        context = self._source.context
        self._context = context and context.looking_from(self._source.tables, len(self._source.side.gain))
        self._images, self._replayed = images, replayed
        self._begun_at = [each.detach().clone() for each in enhancement.parameters()] if recipe.proximal else []
        groups = [
            {"params": [each for each in enhancement.density.parameters() if each.requires_grad]},
            {"params": [each for each in enhancement.matrices() if each.requires_grad]},
        ]
        rates = (recipe.density_rate, recipe.learning_rate)
        moving = [{**group, "full_lr": rate} for group, rate in zip(groups, rates, strict=True) if group["params"]]
        self._optimiser = torch.optim.Adam(moving, lr=recipe.learning_rate)

    def run(self, until: int | None = None) -> Iterator[float]:
        """Train up to a step, or to the end, yielding the loss of every step."""
        until = self._recipe.steps if until is None else min(until, self._recipe.steps)
        while self.step < until:
            loss = self._one_step()
            self.step += 1
            yield loss

    def _one_step(self) -> float:
        recipe, description = self._recipe, self._source.description
        torch.manual_seed(int(np.random.SeedSequence((recipe.seed, self.step)).generate_state(1)[0]))
        for group in self._optimiser.param_groups:
            group["lr"] = group["full_lr"] * (0.5 + 0.5 * math.cos(math.pi * self.step / recipe.steps))
        position = description.trained[self.step % len(description.trained)]
        lambdas = [description.lambdas[trained] for trained in description.trained]
        weight = math.sqrt(sum(lambdas) / len(lambdas) / description.lambdas[position])
        x, is_replayed = self._batch()
        with reduced_precision(x.device):
            bpp, mse = self._forward(x, position, is_replayed)
            loss = weight * (bpp + description.lambdas[position] * mse) + self._pull()
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.enhancement.matrices()], recipe.clip)
        self._optimiser.step()
        return float(loss.detach())

    def _pull(self) -> Tensor | float:
        """Return what FedProx adds to the loss."""
        moved = zip(self.enhancement.parameters(), self._begun_at, strict=False)
        return self._recipe.proximal / 2 * sum(((each - begun) ** 2).sum() for each, begun in moved)

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return crops float32 (B, 3, h, w) in 0..255, some flipped, and which are replayed, bool (B, 1, 1, 1)."""
        recipe, rng = self._recipe, np.random.default_rng((self._recipe.seed, self.step))
        crops: list[NDArray[np.uint8]] = []
        replayed = []
        for _ in range(recipe.batch_size):
            is_replayed = bool(self._replayed) and rng.random() < recipe.replay_share
            replayed.append(is_replayed)
            images = self._replayed if is_replayed else self._images
            image = images[int(rng.integers(len(images)))]
            top, left = (int(rng.integers(side - recipe.crop + 1)) for side in image.shape[:2])
            crop = image[top : top + recipe.crop, left : left + recipe.crop]
            crops.append(crop[:, :: -1 if rng.random() < 0.5 else 1])
        x = torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy()).float()
        return x.contiguous(memory_format=torch.channels_last), torch.tensor(replayed)[:, None, None, None]

    def _forward(self, x: Tensor, position: int, is_replayed: Tensor) -> tuple[Tensor, Tensor]:
        """Return bits per pixel and mean squared error, of grey levels, at a position."""
        source, gain = self._source, self._source.side.gain[position][:, None, None]
        y = self.enhancement.run("g_a", x, position)
        if self._recipe.replays_latents and is_replayed.any():
            with torch.no_grad():
                before = run(source.g_a, {}, x, position)
            y = torch.where(is_replayed, before, y)
        if source.hyper is None:
            scaled, means = y * gain, torch.zeros(1)
            own_bits = self._factorised_bits(scaled, gain, position)
        else:
            own_bits, scaled, means = self._hyper(y, gain, position)
        y_hat = round_through(scaled - means) + means
        entered = finished(y_hat * source.side.entry[position][:, None, None], "steps")
        x_hat = self.enhancement.run("g_s", entered, position)
        return own_bits.mean() / self._recipe.crop**2, functional.mse_loss(x_hat, x)

    def _factorised_bits(self, values: Tensor, gain: Tensor, position: int) -> Tensor:
        """Return the bits (B,) of a factorised y, multiplied by its gain."""
        noisy = add_noise(values)
        likelihood = self._likelihood(noisy, gain)
        if self._context is None or self._context.origin is None:
            return bits(likelihood)
        begun = density_moments(self.enhancement.density, gain)
        origin = self._context.origin.at(position)
        return context_bits(self._context, noisy, rounded(values.detach()), begun, origin, -torch.log2(likelihood))

    def _likelihood(self, noisy: Tensor, gain: Tensor) -> Tensor:
        return self.enhancement.density.likelihood(noisy, gain[None].expand(len(noisy), -1, -1, -1))

    def _hyper(self, y: Tensor, gain: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return bits of z and y (B,), y multiplied by its gain, and its means."""
        hyper, has_means = self._source.hyper, self._source.description.means
        assert hyper is not None
        entry = row_of(hyper.y_entry, position)[:, None, None]
        entered = finished((y if has_means else y.abs()) * entry, "steps")
        z_gain = hyper.side.gain[position][:, None, None]
        z = self.enhancement.run("h_a", entered, position) * z_gain
        back = finished(round_through(z) * hyper.side.entry[position][:, None, None], "steps")
        predicted = self.enhancement.run("h_s", back, position)
        scales, means = predicted.chunk(2, dim=1) if has_means else (predicted, torch.zeros(1))
        scaled, means = y * gain, means * gain
        noisy, scales = add_noise(scaled - means), scales * gain
        if self._context:
            moments = Moments(scales, torch.zeros(1, 1, 1, 1))
            y_bits = context_bits(self._context, noisy, rounded((scaled - means).detach()), moments)
        else:
            y_bits = gaussian_bits(noisy, 0.0, scales)
        return bits(self._likelihood(add_noise(z), z_gain)) + y_bits, scaled, means
