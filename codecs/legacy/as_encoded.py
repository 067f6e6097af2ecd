"""What the encoders here write, checked before a library's decoder is trusted with bytes from outside.

A header's size bounds pixels; it does not bound what a decoder does for each. A JPEG of a few kilobytes may repeat a
scan over all coefficients thousands of times, a JPEG 2000 may ask for a precinct for every pixel, at 1.7 kB each. Ours
do neither, so nothing else is taken.

Sources: ITU-T T.81, annex B; ITU-T T.800, annex A.

Not here: decoding (`stills`), damage that the decoders find themselves.
"""

import re
import struct
from collections.abc import Iterator

_JPEG_BASELINE, _JPEG_SCAN, _JPEG_END = 0xFFC0, 0xFFDA, b"\xff\xd9"
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7]", re.DOTALL)
"""Anything but a stuffed byte and a restart."""
_JPEG_FRAMES = {*range(0xFFC0, 0xFFD0)} - {0xFFC4, 0xFFC8, 0xFFCC}

_J2K_SIZE, _J2K_STYLE, _J2K_STEPS, _J2K_COMMENT, _J2K_TILE = 0xFF51, 0xFF52, 0xFF5C, 0xFF64, 0xFF90
_J2K_MOST_LEVELS = 5


def check_jpeg(body: bytes) -> None:
    """Check that a JPEG is baseline, with one scan.

    Raises:
        ValueError: if it is not.
    """
    at = 2
    for marker, segment, end in _segments(body, at, _JPEG_SCAN):
        if marker in _JPEG_FRAMES and marker != _JPEG_BASELINE:
            raise ValueError(f"a frame of kind {marker:#x}, expected baseline: another encoder's?")
        at = end
        if marker == _JPEG_SCAN and len(segment) < 6:
            raise ValueError("a broken scan header: damaged payload?")
    found = _MARKER_IN_SCAN.search(body, at)
    if found is None or found.group() != _JPEG_END:
        raise ValueError("more than one scan, or no end: damaged payload, or another encoder's?")


def check_jpeg2000(body: bytes, height: int, width: int) -> None:
    """Check that a JPEG 2000 stream is one tile, coded as ours are.

    Raises:
        ValueError: if it is not.
    """
    if body[:2] != b"\xff\x4f":
        raise ValueError("no beginning of a codestream: damaged payload?")
    size = struct.pack(">H8IH", 0, width, height, 0, 0, width, height, 0, 0, 3) + 3 * b"\x07\x01\x01"
    seen, at = [], 2
    for marker, segment, end in _segments(body, at, _J2K_TILE):
        seen.append(marker)
        at = end
        styled = marker == _J2K_STYLE and _is_our_style(segment)
        sized = marker == _J2K_SIZE and segment == size
        tile = marker == _J2K_TILE and segment[:2] + segment[6:] == b"\x00\x00\x00\x01"
        if not (styled or sized or tile or marker in (_J2K_STEPS, _J2K_COMMENT)):
            raise ValueError(
                f"a segment {marker:#x} that our encoder does not write: damaged payload, or another encoder's?"
            )
        if tile:
            (length,) = struct.unpack(">I", segment[2:6])
            if at - 12 + length != len(body) - 2 or body[at : at + 2] != b"\xff\x93":
                raise ValueError("more than one part of a tile, or less: damaged payload?")
    if {_J2K_SIZE, _J2K_STYLE, _J2K_TILE} - {*seen}:
        raise ValueError("a part of the header is missing: damaged payload?")


def _is_our_style(segment: bytes) -> bool:
    """Whether there is one layer, a colour transform, blocks of 64 x 64, and precincts as large as can be."""
    return (
        len(segment) == 10
        and segment[:5] == b"\x00\x00\x00\x01\x01"
        and segment[5] <= _J2K_MOST_LEVELS
        and segment[6:] == b"\x04\x04\x00\x00"
    )


def _segments(body: bytes, at: int, last: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield marker, content and end of each segment of a header, up to the last, which is yielded too.

    Raises:
        ValueError: if it breaks off or holds no such segments.
    """
    while True:
        if at + 4 > len(body) or body[at] != 0xFF:
            raise ValueError("the header breaks off: damaged payload?")
        marker, length = struct.unpack_from(">HH", body, at)
        end = at + 2 + length
        if length < 2 or end > len(body):
            raise ValueError("the header breaks off: damaged payload?")
        yield marker, body[at + 4 : end], end
        if marker == last:
            return
        at = end
