"""The table of `roadbits codecs`: every codec, its operating points, and what a neural one costs and weighs.

Not here: the codecs (`roadbits.codecs.catalogue`).
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from roadbits.codecs.codec import ClipCodec, Codec

_SIDE = 1024


def print_codecs(codecs: Sequence[Codec | ClipCodec], console: Console) -> None:
    """Print a row for each codec; costs are per pixel of a large image or frame, thousands of multiply-accumulates."""
    table = Table("codec", "operating points", box=None, header_style="bold")
    for column in ("kMAC/px encode", "decode", "parameters", "weights MB", "model hash"):
        table.add_column(column, justify="right")
    for codec in codecs:
        table.add_row(codec.name, _points(codec), *_costs(codec))
    console.print(table)


def _points(codec: Codec | ClipCodec) -> str:
    """Return the values of every knob on the ladder, from its lowest rate up, the knob said once."""
    lowest, highest = codec.points[0], codec.points[-1]
    told = []
    for knob, first in lowest.settings:
        values = sorted({point[knob] for point in codec.points}, reverse=first > highest[knob])
        told.append(" ".join([knob, *(f"{value:g}" for value in values)]))
    return "  ".join(told)


def _costs(codec: Codec | ClipCodec) -> tuple[str, ...]:
    if not codec.model_hash:
        return "", "", "", "", ""
    cost = codec.complexity(codec.points[-1], _SIDE, _SIDE)
    pixels = _SIDE**2
    return (
        f"{cost.encode_macs / pixels / 1e3:.1f}",
        f"{cost.decode_macs / pixels / 1e3:.1f}",
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.weight_bytes / 1e6:.1f}",
        codec.model_hash.hex(),
    )
