"""Layers that networks of several widths share: the first channels of common kernels, GDN by two recipes.

A part stands for one layer of plain networks of rising widths, and tells the parameters of the plain layer at each of
them, by the plain layer's own names. A slim network of some width *is* the plain network over these parameters
(`slim_network`), so nothing is computed in two ways.

    SlimKernel   one kernel and bias for all; a width uses their first channels
    Switch       each width has its own: entropy models, gains, and GDN, which makes it the paper's SwitchGDN
    SlimGDN      SlimGDN+: one GDN for all, its first channels scaled and shifted by four numbers for each width

Sources: Yang, Herranz, Cheng, Mozerov, "Slimmable compressive autoencoders for practical neural image compression",
CVPR 2021, and its authors' code; Yu, Yang, Xu, Yang, Huang, "Slimmable neural networks", ICLR 2019.

Not here: the paper's third recipe, SlimGDN, which cuts the GDN and adjusts nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from roadbits.codecs.layers import GDN, rooted, unrooted

GdnRecipe = Literal["switch", "slim"]


class SlimPart(nn.Module, ABC):
    """What stands for one module of plain networks of rising widths."""

    @abstractmethod
    def at(self, index: int) -> dict[str, Tensor]:
        """Return the parameters of the plain module at a width, counted from the narrowest, by its own names."""


class SlimModules(SlimPart):
    """Parts under the names of the plain module's children."""

    def __init__(self, plains: Sequence[nn.Module], gdn: GdnRecipe) -> None:
        """Take over the initial values of plain modules, narrowest first, all of one make."""
        super().__init__()
        for name, _ in plains[-1].named_children():
            self.add_module(name, _part([plain.get_submodule(name) for plain in plains], gdn))

    def at(self, index: int) -> dict[str, Tensor]:
        """Return the parameters of all children."""
        return {
            f"{name}.{key}": tensor
            for name, part in self.named_children()
            for key, tensor in cast(SlimPart, part).at(index).items()
        }


class SlimKernel(SlimPart):
    """A convolution, plain or transposed, of whose kernel and bias every width uses the first channels."""

    def __init__(self, plains: Sequence[nn.Module], num_blocks: int = 1) -> None:
        """Take over the widest layer's initial values.

        Args:
            plains: convolutions, narrowest first.
            num_blocks: the outputs are that many equal blocks, side by side, and a width uses the first channels of
                each; more than one only for convolutions that are not transposed.
        """
        super().__init__()
        self._shapes = [{name: tensor.shape for name, tensor in plain.named_parameters()} for plain in plains]
        self._num_blocks = num_blocks
        for name, parameter in plains[-1].named_parameters():
            self.register_parameter(name, parameter)

    def at(self, index: int) -> dict[str, Tensor]:
        """Return the kernel and, if there is one, the bias."""
        return {
            name: first_channels(getattr(self, name), shape, self._num_blocks)
            for name, shape in self._shapes[index].items()
        }


def first_channels(shared: Tensor, shape: torch.Size, num_blocks: int = 1) -> Tensor:
    """Return the corner of a tensor that has a shape; of each block of its first dimension, side by side again.

    Raises:
        ValueError: if the tensor is smaller than that.
    """
    if shared.ndim != len(shape) or any(have < want for have, want in zip(shared.shape, shape, strict=True)):
        raise ValueError(f"cannot cut {tuple(shape)} out of {tuple(shared.shape)}: widths must rise in every layer")
    blocks = shared.reshape(num_blocks, -1, *shared.shape[1:])
    cut = (slice(None), slice(shape[0] // num_blocks), *map(slice, shape[1:]))
    # A fresh tensor has the memory format of a plain layer's own kernel, and so takes the same path to the same bits.
    return blocks[cut].flatten(0, 1).contiguous()


class Switch(SlimPart):
    """Modules of which every width has its own; of GDN, the paper's SwitchGDN."""

    def __init__(self, plains: Sequence[nn.Module]) -> None:
        """Take over the modules, narrowest first."""
        super().__init__()
        for index, plain in enumerate(plains):
            self.add_module(str(index), plain)

    def at(self, index: int) -> dict[str, Tensor]:
        """Return the parameters of a width's own module."""
        return dict(self.get_submodule(str(index)).named_parameters())


class SlimGDN(SlimPart):
    """SlimGDN+: one GDN; a width uses gamma * scale + shift and beta * scale + shift of its first channels.

    Scales and shifts start at 1 and 0 and stay at least 0, so that a norm cannot become negative. They are held as
    roots, as `GDN` holds its numbers.
    """

    def __init__(self, plains: Sequence[GDN]) -> None:
        """Take over the widest GDN's initial values."""
        super().__init__()
        self._channels = [len(plain.sqrt_beta) for plain in plains]
        self.shared = plains[-1]
        self.gamma_scale, self.beta_scale = (nn.Parameter(rooted(torch.ones(len(plains)))) for _ in range(2))
        self.gamma_shift, self.beta_shift = (nn.Parameter(rooted(torch.zeros(len(plains)))) for _ in range(2))

    def at(self, index: int) -> dict[str, Tensor]:
        """Return the roots of a width's resolved beta and gamma, as a plain GDN holds them."""
        gamma_scale, gamma_shift, beta_scale, beta_shift = (
            unrooted(held[index]) for held in (self.gamma_scale, self.gamma_shift, self.beta_scale, self.beta_shift)
        )
        c = self._channels[index]
        gamma = self.shared.gamma()[:c, :c] * gamma_scale + gamma_shift
        beta = self.shared.beta()[:c] * beta_scale + beta_shift
        return {"sqrt_beta": rooted(beta), "sqrt_gamma": rooted(gamma)}


def _part(plains: Sequence[nn.Module], gdn: GdnRecipe) -> SlimPart:
    """Return what stands for modules of one make."""
    match plains[-1]:
        case nn.Sequential():
            return SlimModules(plains, gdn)
        case nn.Conv2d() | nn.ConvTranspose2d():
            return SlimKernel(plains)
        case GDN() if gdn == "slim":
            return SlimGDN(cast(Sequence[GDN], plains))
        case _:
            return Switch(plains)
