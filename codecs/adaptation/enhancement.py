"""What moves when a codec is adapted: residuals between its frozen layers, the layers themselves, or its density alone.

An `Enhancement` runs the source's transforms with what it adds or changes; it has the factorised latent's density.

Not here: the loop that trains one (`training`), what becomes of it (`danice` for adapters).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from roadbits.codecs.adaptation.danice import RESIDUAL, Adapter, AdapterDescription, AdapterError, Place
from roadbits.codecs.adaptation.differentiable import Residual, TunedLayer, run
from roadbits.codecs.adaptation.warped import WarpedDensity
from roadbits.codecs.integer import ExactLayer, ExactTransform
from roadbits.codecs.neural.model_file import FrozenModel, LayerWords, TransformName
from roadbits.codecs.symbol_tables import SymbolTables
from roadbits.codecs.training.frozen_tables import factorised_tables
from roadbits.codecs.training.whole_weights import whole_weights

LARGEST_SHARE = 0.03
"""Of the source's weights that an adapter has by default."""


class ResidualPlace(NamedTuple):
    """Behind which layer of which transform a residual stands."""

    transform: TransformName
    behind: int


def transforms_of(source: FrozenModel) -> dict[TransformName, ExactTransform]:
    """Return a model's transforms by name."""
    found: dict[TransformName, ExactTransform] = {"g_a": source.g_a, "g_s": source.g_s}
    if source.hyper:
        found |= {"h_a": source.hyper.h_a, "h_s": source.hyper.h_s}
    return found


def num_weights(source: FrozenModel) -> int:
    """Return the number of weights and offsets of a model's transforms."""
    return sum(transform.num_parameters() for transform in transforms_of(source).values())


def default_places(source: FrozenModel) -> tuple[ResidualPlace, ...]:
    """Return where residuals do most, as far as they stay within the share: near the pixels first, in h_s last.

    With 25 frames and 300 steps a CAE gained 21.3 % on CamVid's dusk and 6.1 % on KITTI behind g_a's first
    normalisation and the last two of g_s; with two in g_a and the last of g_s 21.0 and 6.2 %, with two in g_a and the
    last but one of g_s 19.6 and 4.2 %. Fine-tuning of all weights gained 19.1 and 5.2 %.
    """
    transforms = transforms_of(source)
    wanted: list[tuple[tuple[bool, int], ResidualPlace]] = []
    for name in ("g_s", "g_a", "h_s"):
        layers = transforms[name].layers if name in transforms else ()
        for index, layer in enumerate(layers[:-1]):
            if layer.shape.output == "relu" or (layer.shape.kind in ("gdn", "igdn") and index > 0):
                depth = index if name == "g_a" else len(layers) - 1 - index
                wanted.append(((name == "h_s", depth), ResidualPlace(name, index)))
    allowed, chosen, used = LARGEST_SHARE * num_weights(source), list[ResidualPlace](), 0
    for _, place in sorted(wanted, key=itemgetter(0)):
        size = transforms[place.transform].layers[place.behind].num_outputs ** 2
        if used + size <= allowed:
            chosen.append(place)
            used += size
    return tuple(sorted(chosen))


def is_adaptable(source: FrozenModel) -> bool:
    """Whether one density serves all rates of a codec: those of MAE and cAE have one for each."""
    return source.description.method in ("gain", "scaling")


class Enhancement(nn.Module):
    """The source with its density free to move, and nothing else."""

    def __init__(self, source: FrozenModel) -> None:
        """Begin as the source.

        Raises:
            AdapterError: if the source has a density for each rate, of which an adapter could move but one.
        """
        super().__init__()
        if not is_adaptable(source):
            raise AdapterError(
                f"a codec of method {source.description.method} has a density for each rate, and an adapter moves one: "
                "adapt a codec with gains, such as cae"
            )
        self.source = source
        self.density = WarpedDensity(source)

    def run(self, name: TransformName, x: Tensor, position: int) -> Tensor:
        """Return what a transform makes of whole numbers (B, in, H, W) at a position."""
        return run(transforms_of(self.source)[name], {}, x, position)

    def matrices(self) -> Iterator[nn.Parameter]:
        """Yield what moves beside the density."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("density."))

    def tables(self) -> SymbolTables:
        """Return the density's whole-number tables."""
        side = self.source.hyper.side if self.source.hyper else self.source.side
        return factorised_tables(self.density, side.gain, torch.zeros(len(side.gain)))


class Residuals(Enhancement):
    """CAwF: residuals at some places, zero at first."""

    def __init__(self, source: FrozenModel, places: Sequence[ResidualPlace] | None = None) -> None:
        """Take the default places if none are given; an empty list leaves the density alone."""
        super().__init__(source)
        self.places = default_places(source) if places is None else tuple(places)
        transforms = transforms_of(source)
        self.residuals = nn.ModuleDict(
            {
                f"{place.transform}-{place.behind}": Residual(
                    transforms[place.transform].layers[place.behind].num_outputs
                )
                for place in self.places
            }
        )

    def run(self, name: TransformName, x: Tensor, position: int) -> Tensor:
        """Return what a transform makes of whole numbers with its residuals."""
        return run(transforms_of(self.source)[name], self._of(name), x, position)

    def _of(self, name: TransformName) -> Mapping[int, nn.Module]:
        return {
            place.behind: self.residuals[f"{name}-{place.behind}"] for place in self.places if place.transform == name
        }

    @torch.no_grad()
    def freeze(self, domain: str = "", steps: int = 0) -> Adapter:
        """Return the adapter in whole numbers."""
        layers = [self._frozen(place) for place in self.places]
        places = tuple(
            Place(transform=place.transform, behind=place.behind, groups=layer.shape.groups)
            for place, layer in zip(self.places, layers, strict=True)
        )
        description = AdapterDescription(source=self.source.hash.hex(), domain=domain, places=places, steps=steps)
        return Adapter(description, tuple(layers), self.tables())

    def _frozen(self, place: ResidualPlace) -> ExactLayer:
        residual = cast(Residual, self.residuals[f"{place.transform}-{place.behind}"])
        whole = whole_weights(residual.weight.detach().double(), RESIDUAL)
        multiplier, offset = (1 / whole.scale).float().contiguous(), residual.bias.detach().float().contiguous()
        return ExactLayer(whole.shape, whole.stored, multiplier, offset, torch.ones(()))


class Tuned(Enhancement):
    """Fine-tuning: the layers of some transforms move, and the density if it may; another codec comes of it."""

    def __init__(self, source: FrozenModel, transforms: Sequence[TransformName], moves_density: bool) -> None:
        """Begin as the source.

        Raises:
            ValueError: if a layer of a transform differs by position, which cannot be tuned here.
        """
        super().__init__(source)
        self.density.requires_grad_(moves_density)
        self.tuned = nn.ModuleDict(
            {
                name: nn.ModuleList(TunedLayer(layer) for layer in transform.layers)
                for name, transform in transforms_of(source).items()
                if name in transforms
            }
        )

    def run(self, name: TransformName, x: Tensor, position: int) -> Tensor:
        """Return what a transform makes of whole numbers, tuned or as it was."""
        if name not in self.tuned:
            return super().run(name, x, position)
        for layer in cast(nn.ModuleList, self.tuned[name]):
            x = layer(x)
        return x

    @torch.no_grad()
    def forget(self, seed: int) -> None:
        """Shuffle the weights of every convolution that moves: their sizes stay, what they had learned is gone."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, TunedLayer) and layer.weight.shape[2] > 1:
                flat = layer.weight.flatten()
                layer.weight.copy_(flat[torch.randperm(len(flat), generator=generator)].reshape(layer.weight.shape))

    @torch.no_grad()
    def freeze(self) -> FrozenModel:
        """Return the tuned codec."""
        frozen = {
            name: ExactTransform(tuple(cast(TunedLayer, layer).frozen() for layer in cast(nn.ModuleList, layers)))
            for name, layers in self.tuned.items()
        }
        source, hyper = self.source, self.source.hyper
        # Other weights may need their inputs in other groups.
        described = source.description.transforms | {name: LayerWords.of(layers) for name, layers in frozen.items()}
        moves_density = next(self.density.parameters()).requires_grad
        tables, context = self.tables() if moves_density else source.tables, source.context
        if context and moves_density:
            context = context.looking_from(source.tables, len(source.side.gain))
        words = source.description.context
        if context and words:
            words = words.model_copy(update={"origin": context.origin is not None})
        description = source.description.model_copy(update={"transforms": described, "context": words})
        if hyper is not None:
            hyper = replace(hyper, h_a=frozen.get("h_a", hyper.h_a), h_s=frozen.get("h_s", hyper.h_s))
        return replace(
            source,
            description=description,
            g_a=frozen.get("g_a", source.g_a),
            g_s=frozen.get("g_s", source.g_s),
            tables=tables,
            hyper=hyper,
            context=context,
        )
