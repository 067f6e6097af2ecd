"""A hyperprior of several widths: SlimCAE's shared kernels under Minnen's entropy model.

All four transforms are slim. The hyper-synthesis ends in scales and means side by side; a width uses the first channels
of each half.

Beyond the paper that introduced slimmable codecs (see `slimcae`), which has a factorised model only.
"""

from collections.abc import Callable, Sequence
from typing import cast

from torch import nn

from roadbits.codecs.neural.hyperprior import Hyperprior
from roadbits.codecs.neural.slim_layers import GdnRecipe, SlimKernel
from roadbits.codecs.neural.slim_network import SlimNetwork, check_widths


class SlimHyperprior(SlimNetwork[Hyperprior]):
    """The slimmable scale or mean-scale hyperprior in training."""

    def __init__(
        self,
        widths: Sequence[int],
        latent_widths: Sequence[int],
        lambdas: Sequence[Sequence[float]],
        num_layers: int = 3,
        means: bool = True,
        gdn: GdnRecipe = "switch",
        prepare: Callable[[Sequence[Hyperprior]], None] | None = None,
    ) -> None:
        """Build the network.

        Args:
            widths: N of each width, rising: of the transforms' inner layers and of z.
            latent_widths: M of each width, of y, never falling.
            lambdas: of each width: one level of gain for each of its lambdas.
            num_layers: of each transform, 3 or 4.
            means: predict means beside scales.
            gdn: `switch` for a GDN for each width, `slim` for SlimGDN+.
            prepare: gives the plain networks of all widths, the narrowest first, their first weights.

        Raises:
            ValueError: if the widths do not rise, or the lists differ in length.
        """
        check_widths(widths, latent_widths=latent_widths, lambdas=lambdas)
        plains = [
            Hyperprior(n, m, levels, num_layers, means)
            for n, m, levels in zip(widths, latent_widths, lambdas, strict=True)
        ]
        super().__init__(widths, plains, gdn, prepare)
        last = str(len(plains[-1].h_s) - 1)
        h_s = cast(nn.Module, self.h_s)
        h_s.add_module(last, SlimKernel([plain.h_s.get_submodule(last) for plain in plains], num_blocks=1 + means))
