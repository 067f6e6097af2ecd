"""What a run's vehicles learned, as files: adapters that a codec takes behind a `+`, wherever one is named.

One for each way of sharing and domain, `SHARING-DOMAIN.safetensors`; where vehicles learn each for itself, one for each
of them, `local-DOMAIN-vehicle-N.safetensors`. They are of the adaptation's first seed, whose adapters the fleet uses.

Not here: how vehicles come by adapters (`codec_adaptation`), the file (`roadbits.codecs.adaptation.danice`).
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from roadbits.codecs.adaptation.danice import Adapter
from roadbits.codecs.adaptation.update import unpacked
from roadbits.fleet.adaptation_words import Adaptation, Sharing
from roadbits.fleet.adapter_exchange import Exchange
from roadbits.fleet.adapting import source_codec

FOLDER = "adapters"
"""Of a run's folder."""
_DOMAIN_CHARS = 60


def write_adapters(words: Adaptation, exchanges: Mapping[tuple[int, Sharing, str], Exchange], folder: Path) -> None:
    """Write every adapter that a vehicle ended with, each file whole or not at all; the same again changes nothing.

    Args:
        words: of the adaptation.
        exchanges: what happened around adapters, by seed, way of sharing and domain.
        folder: to write into; made if there is something to write.
    """
    source = source_codec(words).model
    for (seed, sharing, domain), exchange in exchanges.items():
        for whose, update in _learned(sharing, exchange) if seed == words.seeds[0] else ():
            adapter = unpacked(source, update).freeze(domain[:_DOMAIN_CHARS], words.all_steps)
            folder.mkdir(exist_ok=True)
            adapter.save(folder / f"{sharing}-{_name_of(domain, adapter)}{whose}.safetensors")


def _learned(sharing: Sharing, exchange: Exchange) -> Iterator[tuple[str, bytes]]:
    """Yield each adapter as it travels, and whose it is where not everyone's."""
    if sharing == "local":
        yield from ((f"-vehicle-{each.vehicle}", each.update) for each in exchange.equipped)
    else:
        yield from (("", update) for update in dict.fromkeys(each.update for each in exchange.equipped))


def _name_of(domain: str, adapter: Adapter) -> str:
    """Return a domain's part of a file's name: a folder's name may hold what tells codecs apart, as + and commas do."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", domain)[:_DOMAIN_CHARS]
    return name if name == domain else f"{name}-{adapter.hash.hex()}"
