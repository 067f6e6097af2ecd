"""Training an adapter on a few images of its domain, on top of a frozen source codec.

The loss is the source's, `bpp_estimate + lambda * 255^2 * mse`, each step at one of the trained rates in turn, weighted
by sqrt(1 / lambda). Nothing of the source moves.

Not here: the adapter itself (`danice`), when to adapt.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from roadbits.codecs.adaptation.danice import RESIDUAL, Adapter, AdapterDescription, Place
from roadbits.codecs.adaptation.differentiable import Residual, finished, run
from roadbits.codecs.adaptation.warped import WarpedDensity
from roadbits.codecs.codec import Image
from roadbits.codecs.entropy import add_noise, bits, gaussian_bits, round_through
from roadbits.codecs.integer import ExactLayer, ExactTransform, row_of
from roadbits.codecs.neural.model_file import FrozenModel, TransformName
from roadbits.codecs.precision import reduced_precision
from roadbits.codecs.training.frozen_tables import factorised_tables
from roadbits.codecs.training.whole_weights import whole_weights

_LARGEST_SHARE = 0.03
"""Of the source's weights that an adapter may have."""


class AdapterPlace(NamedTuple):
    """Behind which layer of which transform a residual stands."""

    transform: TransformName
    behind: int


@dataclass(frozen=True)
class AdapterRecipe:
    """How to train.

    Attributes:
        steps: in all.
        batch_size: crops a step.
        crop: side of a crop in pixels, a multiple of 64.
        learning_rate: of residuals.
        density_rate: of the density's warp.
        clip: largest norm of the residuals' gradient.
        seed: of crops and noise.
    """

    steps: int = 400
    batch_size: int = 4
    crop: int = 192
    learning_rate: float = 2e-4
    density_rate: float = 1e-2
    clip: float = 1.0
    seed: int = 0


def default_places(source: FrozenModel) -> tuple[AdapterPlace, ...]:
    """Return where residuals do most: behind the inner normalisations, and in h_s, while they stay within the share."""
    transforms: dict[TransformName, ExactTransform] = {"g_s": source.g_s, "g_a": source.g_a}
    if source.hyper:
        transforms |= {"h_s": source.hyper.h_s}
    wanted = [
        AdapterPlace(name, index)
        for name, transform in transforms.items()
        for index, layer in enumerate(transform.layers[:-1])
        if layer.shape.kind in ("gdn", "igdn") or layer.shape.output == "relu"
    ]
    allowed = _LARGEST_SHARE * num_weights(source)
    chosen, used = [], 0
    for place in wanted:
        size = transforms[place.transform].layers[place.behind].num_outputs ** 2
        if used + size <= allowed:
            chosen.append(place)
            used += size
    return tuple(chosen)


def num_weights(source: FrozenModel) -> int:
    """Return the number of weights and offsets of a model's transforms."""
    transforms = [source.g_a, source.g_s, *((source.hyper.h_a, source.hyper.h_s) if source.hyper else ())]
    return sum(transform.num_parameters() for transform in transforms)


class AdapterTraining(nn.Module):
    """An adapter while it learns."""

    def __init__(
        self,
        source: FrozenModel,
        images: Sequence[Image],
        recipe: AdapterRecipe,
        places: Sequence[AdapterPlace] | None = None,
    ) -> None:
        """Begin with an adapter that changes nothing.

        Args:
            source: the codec to adapt.
            images: of the domain, uint8 (H, W, 3), sides at least a crop's.
            recipe: how.
            places: of residuals; the default ones if left out, none for an adapter of the density alone.

        Raises:
            ValueError: if there is no image, or one is smaller than a crop.
        """
        super().__init__()
        if not images:
            raise ValueError("no image to adapt to: expected at least one")
        smallest = min(min(image.shape[:2]) for image in images)
        if smallest < recipe.crop:
            raise ValueError(f"crops of {recipe.crop} pixels do not fit into an image with a side of {smallest}")
        self.step = 0
        self._source, self._images, self._recipe = source, images, recipe
        self._places = default_places(source) if places is None else tuple(places)
        self.density = WarpedDensity(source)
        transforms = {"g_a": source.g_a, "g_s": source.g_s}
        if source.hyper:
            transforms |= {"h_a": source.hyper.h_a, "h_s": source.hyper.h_s}
        self.residuals = nn.ModuleDict(
            {
                f"{place.transform}-{place.behind}": Residual(
                    transforms[place.transform].layers[place.behind].num_outputs
                )
                for place in self._places
            }
        )
        groups = [
            {"params": list(self.density.parameters()), "full_lr": recipe.density_rate},
            {"params": list(self.residuals.parameters()), "full_lr": recipe.learning_rate},
        ]
        self._optimiser = torch.optim.Adam([group for group in groups if group["params"]], lr=recipe.learning_rate)

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
        x = self._batch()
        with reduced_precision(x.device):
            bpp, mse = self._forward(x, position)
            loss = weight * (bpp + description.lambdas[position] * mse)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.residuals:
            nn.utils.clip_grad_norm_(self.residuals.parameters(), recipe.clip)
        self._optimiser.step()
        return float(loss.detach())

    def _batch(self) -> Tensor:
        """Return crops float32 (B, 3, h, w) in 0..255, some flipped."""
        rng, size = np.random.default_rng((self._recipe.seed, self.step)), self._recipe.crop
        crops: list[NDArray[np.uint8]] = []
        for _ in range(self._recipe.batch_size):
            image = self._images[int(rng.integers(len(self._images)))]
            top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
            crops.append(image[top : top + size, left : left + size][:, :: -1 if rng.random() < 0.5 else 1])
        x = torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy()).float()
        return x.contiguous(memory_format=torch.channels_last)

    def _of(self, name: TransformName) -> dict[int, nn.Module]:
        """Return a transform's residuals by the layer that they follow."""
        return {
            place.behind: self.residuals[f"{name}-{place.behind}"] for place in self._places if place.transform == name
        }

    def _forward(self, x: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Return bits per pixel and mean squared error, of grey levels, at a position."""
        source = self._source
        gain = source.side.gain[position][:, None, None]
        y = run(source.g_a, self._of("g_a"), x, position)
        if source.hyper is None:
            scaled, means = y * gain, torch.zeros(1)
            own_bits = bits(self.density.likelihood(add_noise(scaled), gain[None].expand(len(x), -1, -1, -1)))
        else:
            own_bits, scaled, means = self._hyper(y, gain, position)
        y_hat = round_through(scaled - means) + means
        entered = finished(y_hat * source.side.entry[position][:, None, None], "steps")
        x_hat = run(source.g_s, self._of("g_s"), entered, position)
        return own_bits.mean() / self._recipe.crop**2, functional.mse_loss(x_hat, x)

    def _hyper(self, y: Tensor, gain: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return bits of z and y (B,), y multiplied by its gain, and its means."""
        hyper = self._source.hyper
        assert hyper is not None
        magnitudes = y if self._source.description.means else y.abs()
        entered = finished(magnitudes * row_of(hyper.y_entry, position)[:, None, None], "steps")
        z_gain = hyper.side.gain[position][:, None, None]
        z = run(hyper.h_a, self._of("h_a"), entered, position) * z_gain
        z_bits = bits(self.density.likelihood(add_noise(z), z_gain[None].expand(len(z), -1, -1, -1)))
        back = finished(round_through(z) * hyper.side.entry[position][:, None, None], "steps")
        predicted = run(hyper.h_s, self._of("h_s"), back, position)
        scales, means = predicted.chunk(2, dim=1) if self._source.description.means else (predicted, torch.zeros(1))
        scaled, means = y * gain, means * gain
        return z_bits + gaussian_bits(add_noise(scaled - means), 0.0, scales * gain), scaled, means

    @torch.no_grad()
    def freeze(self, domain: str = "") -> Adapter:
        """Return the adapter in whole numbers."""
        source = self._source
        layers = [self._frozen(self.residuals[f"{place.transform}-{place.behind}"]) for place in self._places]  # type: ignore[arg-type]
        gains = (source.hyper.side if source.hyper else source.side).gain
        tables = factorised_tables(self.density, gains, torch.zeros(len(gains)))
        places = tuple(
            Place(transform=place.transform, behind=place.behind, groups=layer.shape.groups)
            for place, layer in zip(self._places, layers, strict=True)
        )
        description = AdapterDescription(source=source.hash.hex(), domain=domain, places=places, steps=self.step)
        return Adapter(description, tuple(layers), tables)

    @staticmethod
    def _frozen(residual: Residual) -> ExactLayer:
        whole = whole_weights(residual.weight.detach().double(), RESIDUAL)
        multiplier = (1 / whole.scale).float().contiguous()
        return ExactLayer(
            whole.shape, whole.stored, multiplier, residual.bias.detach().float().contiguous(), torch.ones(())
        )
