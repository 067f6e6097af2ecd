"""One network of several widths: a plain network at each of them, over kernels that all share.

A narrow width costs fewer multiplications and less memory than a wide one, and the whole little more than its widest,
where separate networks would cost their sum.

Not here: which parameters are shared, and how (`slim_layers`); training (`training.joint_widths`).
"""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from roadbits.codecs.neural.cae import CAE, Forward
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.slim_layers import GdnRecipe, SlimModules

Module = TypeVar("Module", bound=nn.Module)
Plain = TypeVar("Plain", bound=CAE | Hyperprior)


def check_widths(widths: Sequence[int], **lists: Sequence[object]) -> None:
    """Refuse widths that do not rise, and lists that do not have one entry for each.

    Raises:
        ValueError: naming what is wrong.
    """
    if not widths or any(narrow >= wide for narrow, wide in pairwise(widths)):
        raise ValueError(f"widths must rise, got {', '.join(map(str, widths)) or 'none'}")
    for name, values in lists.items():
        if len(values) != len(widths):
            raise ValueError(f"expected {len(widths)} {name}, one for each width, got {len(values)}")


def check_fits(name: str, channels: Sequence[int]) -> None:
    """Refuse channels of each width of which a narrow one has more than the widest, whose kernels they share.

    Raises:
        ValueError: naming what is wrong.
    """
    if max(channels) > channels[-1]:
        got = ", ".join(map(str, channels))
        raise ValueError(f"{name} of a narrow width must be no more than the widest's, {channels[-1]}; got {got}")


class SlimFamily(SlimModules, Generic[Module]):
    """A plain module at each of several widths, over parameters that all share.

    Attributes:
        widths: rising.
    """

    def __init__(self, widths: Sequence[int], plains: Sequence[Module], gdn: GdnRecipe = "switch") -> None:
        """Take over the plain modules' initial values: the widest's kernels, everyone's own of what is not shared.

        Args:
            widths: rising.
            plains: a module of each.
            gdn: `switch` for a GDN for each width, `slim` for SlimGDN+.

        Raises:
            ValueError: if a module does not fit into the widest.
        """
        # Without memory, only to lend their forward passes; in a list, so that they do not count as modules.
        lenders = [copy.deepcopy(plain).to("meta") for plain in plains]
        super().__init__(plains, gdn)
        self._plains: list[Module] = lenders
        self.widths = tuple(widths)
        for index in range(len(widths)):
            self.at(index)

    def run(self, width: int, *arguments: Tensor) -> Any:
        """Return what the plain module of a width makes of some tensors.

        Raises:
            ValueError: if the width was not trained.
        """
        index = self.index(width)
        return functional_call(self._plains[index], self.at(index), arguments, strict=True)

    @torch.no_grad()
    def standalone(self, width: int) -> Module:
        """Return a plain module of a width that computes, to the bit, what this one does; it shares no memory.

        Raises:
            ValueError: if the width was not trained.
        """
        index = self.index(width)
        plain: Module = copy.deepcopy(self._plains[index]).to_empty(device="cpu")
        plain.load_state_dict(self.at(index))
        return plain

    def index(self, width: int) -> int:
        """Return which width, counted from the narrowest.

        Raises:
            ValueError: if it was not trained.
        """
        if width not in self.widths:
            raise ValueError(f"width {width} was not trained; choose from {', '.join(map(str, self.widths))}")
        return self.widths.index(width)

    def train(self, mode: bool = True) -> Self:
        """Turn training's noise on or off, at every width."""
        for plain in self._plains:
            plain.train(mode)
        return super().train(mode)


class SlimNetwork(SlimFamily[Plain]):
    """A slim codec in training.

    Attributes:
        num_levels: of each width.
        stride: of the plain networks.
    """

    def __init__(
        self,
        widths: Sequence[int],
        plains: Sequence[Plain],
        gdn: GdnRecipe,
        prepare: Callable[[Sequence[Plain]], None] | None = None,
    ) -> None:
        """Take over the plain networks, see `SlimFamily`; `prepare` gives them their first weights.

        Raises:
            ValueError: if a network does not fit into the widest.
        """
        if prepare:
            prepare(plains)
        super().__init__(widths, plains, gdn)
        self.stride = plains[0].stride
        self.num_levels = tuple(len(plain.method.lambdas) for plain in plains)

    def state_lambdas(self, lambdas: Sequence[float]) -> None:
        """Take other lambdas for those that the widths are trained towards, which a frozen model states.

        Args:
            lambdas: of each width's levels, the narrowest width's first.
        """
        rest = list(lambdas)
        for plain, count in zip(self._plains, self.num_levels, strict=True):
            plain.method.lambdas, rest = tuple(rest[:count]), rest[count:]

    def forward(self, x: Tensor, levels: Tensor, width: int) -> Forward:
        """Return reconstructions and bits of images (B, 3, H, W) in 0..1, at levels (B,) of one width.

        Raises:
            ValueError: if the width was not trained.
        """
        return cast(Forward, self.run(width, x, levels))
