"""The generated street world, rendered by panda3d's software renderer: `StreetSource` and its `DOMAINS`."""

from roadbits.fleet.cameras.street.source import DOMAINS, StreetSource

__all__ = ["DOMAINS", "StreetSource"]
