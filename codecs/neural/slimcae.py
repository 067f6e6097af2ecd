"""SlimCAE: compressive autoencoders of several widths in one, each with its own factorised model and gains.

    width k:  g_a, g_s of `cae` over the first w_k channels of shared kernels;  latent of w_k channels

The widest is a CAE of its size; the others add little: a GDN for each (SwitchGDN) or four numbers for each GDN
(SlimGDN+), 58 numbers of entropy model for each latent channel, and gains.

Source: Yang, Herranz, Cheng, Mozerov, "Slimmable compressive autoencoders for practical neural image compression", CVPR
2021. Beyond the paper: several rate levels at each width, by gains (`gain`), and latents wider than their width.
"""

from collections.abc import Callable, Sequence

from roadbits.codecs.neural.cae import CAE
from roadbits.codecs.neural.slim_layers import GdnRecipe
from roadbits.codecs.neural.slim_network import SlimNetwork, check_widths


class SlimCAE(SlimNetwork[CAE]):
    """The slimmable compressive autoencoder in training."""

    def __init__(
        self,
        widths: Sequence[int],
        lambdas: Sequence[Sequence[float]],
        latent_widths: Sequence[int] | None = None,
        gdn: GdnRecipe = "switch",
        prepare: Callable[[Sequence[CAE]], None] | None = None,
    ) -> None:
        """Build the network.

        Args:
            widths: N of each width, rising.
            lambdas: of each width: one level of gain for each of its lambdas.
            latent_widths: M of each width, never falling; N if left out, as in the paper.
            gdn: `switch` for a GDN for each width, `slim` for SlimGDN+.
            prepare: gives the plain networks of all widths, the narrowest first, their first weights.

        Raises:
            ValueError: if the widths do not rise, or the lists differ in length.
        """
        latents = widths if latent_widths is None else latent_widths
        check_widths(widths, lambdas=lambdas, latent_widths=latents)
        plains = [CAE(n, levels, m) for n, levels, m in zip(widths, lambdas, latents, strict=True)]
        super().__init__(widths, plains, gdn, prepare)
