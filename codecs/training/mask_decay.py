"""Mask decay: a small encoder for a decoder that exists, shrunk out of the large encoder while it trains.

On a vehicle only the encoder has to be small; the decoder may be as large as a server wants. Behind each inner
convolution of g_a the channels that are to go are multiplied by a mask that falls from 1 to 0, so that the others take
over what they did; then they are cut out. Everything but g_a stays as it was trained: decoder, entropy model, gains.

Channels stay by their weight: the product of the norms of the kernels that make and use them.

Source: Wang, Li, Li, Lu, "EVC: towards real-time neural image compression with mask decay", ICLR 2023, whose masks fall
by a sparsity loss and choose channels on the way; here they fall linearly, and the choice is made before.

Not here: encoders and decoders of several sizes over shared kernels (`neural.slim_network`).
"""

import copy
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from roadbits.codecs.layers import GDN, down
from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.modulation import Transform


class FadingAnalysis(Transform):
    """An analysis transform some of whose inner channels fade.

    Attributes:
        keep: how many channels of each inner layer will be left.
    """

    def __init__(self, whole: Transform, keep: int, steps: int) -> None:
        """Take over a transform.

        Args:
            whole: convolutions and GDNs.
            keep: channels of each inner layer that will be left.
            steps: of training until the others are gone.

        Raises:
            ValueError: if there are not more channels than that, or the transform is modulated.
        """
        super().__init__(*whole)
        inner = self._inner()
        if any(not isinstance(module, nn.Conv2d | GDN) for module in whole):
            raise ValueError("mask decay needs convolutions and GDN alone, as of method gain")
        if any(layer.out_channels <= keep for layer in inner):
            raise ValueError(f"expected fewer encoder channels than {inner[0].out_channels}, got {keep}")
        self.keep, self._steps = keep, steps
        self.register_buffer("steps_done", torch.zeros((), dtype=torch.int64))
        for number, layer in enumerate(inner):
            self.register_buffer(f"stays_{number}", torch.ones(layer.out_channels))

    def _inner(self) -> list[nn.Conv2d]:
        """Return every convolution but the last."""
        return [module for module in self if isinstance(module, nn.Conv2d)][:-1]

    def _staying(self) -> dict[nn.Module, Tensor]:
        """Return for each inner convolution which outputs stay, 1 or 0 (C,)."""
        return {layer: cast(Tensor, getattr(self, f"stays_{number}")) for number, layer in enumerate(self._inner())}

    def forward(self, x: Tensor, levels: Tensor | None = None) -> Tensor:
        """Return the latent of x (B, 3, H, W); in training a step further on."""
        if self.training:
            self._choose_at_first()
            cast(Tensor, self.steps_done).add_(1)
        left = 1 - torch.clamp(cast(Tensor, self.steps_done) / self._steps, max=1)
        staying = self._staying()
        for module in self:
            x = module(x)
            if module in staying:
                mask = staying[module] + (1 - staying[module]) * left
                x = x * mask.to(x.dtype)[:, None, None]
        return x

    @torch.no_grad()
    def _choose_at_first(self) -> None:
        """Choose the channels that stay, unless a step was done."""
        if self.steps_done:
            return
        convolutions = [module for module in self if isinstance(module, nn.Conv2d)]
        for (maker, user), stays in zip(pairwise(convolutions), self._staying().values(), strict=True):
            weight = maker.weight.flatten(1).norm(dim=1) * user.weight.transpose(0, 1).flatten(1).norm(dim=1)
            stays.zero_()
            stays[weight.topk(self.keep).indices] = 1

    @torch.no_grad()
    def cut(self) -> Transform:
        """Return the transform of the channels that stay alone; what it computes is the same once all others faded."""
        self._choose_at_first()
        staying = {layer: torch.nonzero(stays)[:, 0] for layer, stays in self._staying().items()}
        inputs, layers = torch.arange(3), list[nn.Module]()
        for module in self:
            if isinstance(module, nn.Conv2d):
                outputs = staying.get(module, torch.arange(module.out_channels))
                layers.append(_convolution_between(module, inputs, outputs))
                inputs = outputs
            else:
                layers.append(_gdn_of(cast(GDN, module), inputs))
        return Transform(*layers)


def shrink_encoder(network: CAE | Hyperprior, keep: int, steps: int) -> None:
    """Let the inner channels of g_a fade to `keep` within these steps of training, and nothing else move.

    Raises:
        ValueError: if there are not more channels than that, or the transform is modulated.
    """
    network.g_a = FadingAnalysis(network.g_a, keep, steps)
    network.requires_grad_(False)
    network.g_a.requires_grad_(True)


def fading_buffers(network: nn.Module) -> set[str]:
    """Return the names of the buffers by which fading transforms keep account of how far they are."""
    return {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, FadingAnalysis)
        for name, _ in module.named_buffers(recurse=False)
    }


def with_cut_encoder(network: CAE | Hyperprior) -> CAE | Hyperprior:
    """Return a network whose encoder has only the channels that stay; the network itself if none fades."""
    if not isinstance(network.g_a, FadingAnalysis):
        return network
    cut = copy.deepcopy(network)
    cut.g_a = network.g_a.cut()
    return cut


def _convolution_between(whole: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> nn.Conv2d:
    has_bias = whole.bias is not None
    cut = down(len(inputs), len(outputs), whole.kernel_size[0], whole.stride[0], has_bias)
    cut.weight.copy_(whole.weight[outputs][:, inputs])
    if cut.bias is not None and whole.bias is not None:
        cut.bias.copy_(whole.bias[outputs])
    return cut


def _gdn_of(whole: GDN, channels: Tensor) -> GDN:
    cut = GDN(len(channels), whole.inverse)
    cut.sqrt_beta.copy_(whole.sqrt_beta[channels])
    cut.sqrt_gamma.copy_(whole.sqrt_gamma[channels][:, channels])
    return cut
