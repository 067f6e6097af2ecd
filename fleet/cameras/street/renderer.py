"""The one panda3d engine of the process: draws a `Stage` as colours, labels and distances.

panda3d's software renderer `p3tinydisplay` needs no display and no GL. Colours are drawn at twice the width and
averaged: smooth poles and walls at half the cost of twice the size. Labels are drawn at the size asked for, flat and
unblended, one sample in the middle of each pixel. Ground is painted in layers, all else is depth tested. The label
picture also carries the distance: red the class, blue the slot of a chunk or an actor, green the place along the chunk
(see `scene`); the renderer's own depth cannot be copied.

panda3d is imported when the first frame is drawn. It keeps one engine per process, hence the module-level cache and
lock; a drawn frame depends only on the view.

Not here: weather and light (`weather`), what is drawn (`scene`, `traffic`).
"""

import ctypes
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.cameras.street.layout import CHUNK_M
from roadbits.fleet.cameras.street.panda import panda3d_core
from roadbits.fleet.cameras.street.scene import LABEL_BASE, LABEL_STEP

if TYPE_CHECKING:
    from roadbits.fleet.cameras.street.stage import Stage

LOCK = threading.Lock()
"""Held while a frame is drawn: panda3d's engine serves one thread at a time."""
_MAX_OUTPUTS = 4
FIELD_OF_VIEW_DEG = 54.0
"""Of the picture's width."""
_SUPERSAMPLED_PIXELS = 1280 * 720
_SYSTEM_LIBRARY = "libX11.so.6"
_CONFIG = """
load-display p3tinydisplay
window-type offscreen
audio-library-name null
sync-video 0
framebuffer-multisample 0
notify-level error
transform-cache 0
"""
_SKY_RED = LABEL_BASE / 255


class Picture(NamedTuple):
    """A drawn view.

    Attributes:
        colour: uint8 (H, W, 4) RGB and glow (255 none; lower values shine in the dark).
        label: uint8 (H, W) class ids.
        distance: float32 (H, W), metres along the street, infinite for sky.
    """

    colour: NDArray[np.uint8]
    label: NDArray[np.uint8]
    distance: NDArray[np.float32]


class _Output(NamedTuple):
    """An offscreen buffer, the texture it is copied to, and its one region."""

    buffer: Any
    texture: Any
    region: Any


class Engine:
    """panda3d's engine with its offscreen buffers, one pair per picture size, the last few kept."""

    def __init__(self) -> None:
        _check_system_library()
        core = panda3d_core()

        core.loadPrcFileData("", _CONFIG)
        self._core = core
        self._engine = core.GraphicsEngine.getGlobalPtr()
        selection = core.GraphicsPipeSelection.getGlobalPtr()
        self._pipe = selection.makePipe("TinyOffscreenGraphicsPipe", "p3tinydisplay")
        if self._pipe is None:
            raise DataError("panda3d's software renderer p3tinydisplay cannot be loaded: reinstall panda3d")
        self._outputs: OrderedDict[tuple[int, int], tuple[_Output, _Output, int]] = OrderedDict()

    def draw(self, stage: "Stage", height: int, width: int) -> Picture:
        """Draw the stage as it stands."""
        colour, label, scale = self._pair(height, width)
        colour.region.setCamera(stage.colour_camera)
        label.region.setCamera(stage.label_camera)
        for output in (colour, label):
            output.buffer.setActive(True)
        self._engine.renderFrame()
        for output in (colour, label):
            output.buffer.setActive(False)
        self._core.TransformState.garbageCollect()
        self._core.RenderState.garbageCollect()
        pixels = _bytes(colour.texture)
        code = _bytes(label.texture)
        averaged = _resolved(pixels) if scale == 2 else pixels
        ids = code[..., 0] // np.uint8(LABEL_STEP)
        distance = stage.slot_distances[code[..., 2]] + code[..., 1] * np.float32(CHUNK_M / 255)
        return Picture(averaged, ids, distance)

    def _pair(self, height: int, width: int) -> tuple[_Output, _Output, int]:
        """Return the colour and the label output of a size, and how much wider colours are drawn."""
        size = (height, width)
        if size not in self._outputs:
            scale = 2 if height * width <= _SUPERSAMPLED_PIXELS else 1
            colour = self._output(height, width * scale, (0.8, 0.85, 0.9, 1))
            label = self._output(height, width, (1, 0, _SKY_RED, 1))
            self._outputs[size] = (colour, label, scale)
            if len(self._outputs) > _MAX_OUTPUTS:
                _, dropped = self._outputs.popitem(last=False)
                for output in dropped[:2]:
                    self._engine.removeWindow(output.buffer)
        self._outputs.move_to_end(size)
        return self._outputs[size]

    def _output(self, height: int, width: int, clear: tuple[float, float, float, float]) -> _Output:
        """Open an offscreen buffer that is copied to memory after each frame."""
        core = self._core
        properties = core.FrameBufferProperties()
        properties.setRgbColor(True)
        properties.setRgbaBits(8, 8, 8, 8)
        properties.setDepthBits(24)
        size = core.WindowProperties.size(width, height)
        buffer = self._engine.makeOutput(self._pipe, "street", 0, properties, size, core.GraphicsPipe.BFRefuseWindow)
        if buffer is None:
            raise DataError(f"panda3d's software renderer opened no buffer of {width} x {height} pixels")
        texture = core.Texture()
        buffer.addRenderTexture(texture, core.GraphicsOutput.RTMCopyRam, core.GraphicsOutput.RTPColor)
        region = buffer.makeDisplayRegion()
        region.setClearColorActive(True)
        region.setClearDepthActive(True)
        region.setClearColor(clear)
        return _Output(buffer, texture, region)


@lru_cache(maxsize=1)
def engine() -> Engine:
    """Return the engine of this process.

    Raises:
        DataError: when a system library is missing, with the packages that bring it.
    """
    return Engine()


def _check_system_library() -> None:
    """Raise DataError unless the system library p3tinydisplay links to can be loaded."""
    try:
        ctypes.CDLL(_SYSTEM_LIBRARY)
    except OSError as error:
        raise DataError(
            f"the street world's renderer (panda3d p3tinydisplay) needs the system library {_SYSTEM_LIBRARY}: "
            "install it with `apt-get install libx11-6` (Debian, Ubuntu) or `dnf install libX11` (Fedora)"
        ) from error


def _bytes(texture: Any) -> NDArray[np.uint8]:
    """Return a copied texture as uint8 (h, w, 4) RGBA (see `stage` on the order), top row first."""
    size = (texture.getYSize(), texture.getXSize(), 4)
    return np.frombuffer(texture.getRamImage(), np.uint8).reshape(size)[::-1]


def _mean(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Average bytes, four at a time: a halved byte cannot carry into its neighbour in the 32-bit word."""
    mask, one = np.uint32(0xFEFEFEFE), np.uint32(1)
    return ((first & mask) >> one) + ((second & mask) >> one)


def _resolved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average pixels (h, 2 w, 4) pairwise to (h, w, 4) and soften them upwards and downwards by weights 1 : 6 : 1."""
    words = pixels.view(np.uint32)[..., 0]
    both = _mean(words[:, ::2], words[:, 1::2])
    beside = _mean(both[:-2], both[2:])
    both[1:-1] = _mean(both[1:-1], _mean(both[1:-1], beside))
    return both[..., None].view(np.uint8)
