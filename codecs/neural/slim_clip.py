"""SlimVC's codec: clips through a slimmable still codec, frame after frame coded under what the frames before predict.

A clip is one payload. Its body is, for every frame, the number of 32-bit words (3 bytes) and the words of an
entropy-coded stack of its own. Every 32nd frame is a key frame, coded as a still; the container names the hashes of the
width's model and of its temporal model, and the position among its rates. A frame decodes to what the still codec's
payload of it decodes to.

Not here: the prediction (`slimvc`, `temporal_model`), the still codec (`slim_still`).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from roadbits.codecs.bitstream import HASH_BYTES, BitstreamError, CodecId, Container, clip_from, expect, pack
from roadbits.codecs.codec import MAX_CLIP_PIXELS, Clip, Complexity, Image, OperatingPoint, check_clip
from roadbits.codecs.neural.cae import STRIDE
from roadbits.codecs.neural.model_file import stored_bytes
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.still import (
    LARGEST_IMAGE_PIXELS,
    SMALLEST_SIDE,
    NeuralStill,
    check_size,
    factorised_rows,
    latents_of,
    symbols_of,
)
from roadbits.codecs.neural.temporal_model import Prediction, TemporalModel, WidthPrior
from roadbits.codecs.symbol_tables import Coder, SymbolTables, check_read, coder_bytes, coder_of
from roadbits.codecs.timing import section

GOP_FRAMES = 32
_LENGTH_BYTES, _WORD_BYTES = 3, 4


class _Expected:
    """What is known of the next frame of a group: nothing at first, then two latents.

    Attributes:
        codec: of the width.
        position: among its rates.
    """

    def __init__(self, codec: NeuralStill, prior: WidthPrior, model: TemporalModel, position: int) -> None:
        self._codec, self._prior, self._model, self._position = codec, prior, model, position
        self._last: Tensor | None = None
        self._before: Tensor | None = None

    def begin_group(self) -> None:
        """Forget the frames before a key frame."""
        self._last = self._before = None

    def prediction(self, shape: tuple[int, ...]) -> tuple[SymbolTables, Prediction]:
        """Return the tables of the next latent (1, C, h, w), and which is each value's."""
        if self._last is None:
            rows = factorised_rows(self._codec.model.side, self._position, shape)
            return self._codec.model.tables, Prediction(rows, np.zeros(len(rows), np.int32))
        before = self._last if self._before is None else self._before
        predicted = self._prior.predict(self._last, before, self._position, self._model.thresholds)
        return self._model.tables, predicted

    def see(self, y_hat: Tensor) -> Tensor:
        """Take the next latent (1, C, h, w), and return it as the steps that enter the synthesis transform."""
        self._before, self._last = self._last, self._codec.steps(y_hat, self._position)
        return self._last


@dataclass(frozen=True, eq=False)
class SlimClip:
    """A clip codec of several widths.

    Attributes:
        name: on the command line; with a file of one's own, the file follows a colon.
        still: the codec of its frames.
        model: the temporal entropy model.
        width: whose points alone it offers; those of all if left out.
    """

    name: str
    still: SlimStill
    model: TemporalModel
    width: int | None = None

    def __post_init__(self) -> None:
        """Check that the models belong together.

        Raises:
            ValueError: if they do not.
        """
        wanted, here = self.model.description.still_hash, self.still.model_hash.hex()
        if wanted != here:
            raise ValueError(f"the temporal model is of {self.model.description.still} {wanted}, that one is {here}")
        if self.model.description.widths != self.still.model.widths:
            raise ValueError(f"the temporal model has widths {self.model.description.widths}")
        if self.width is not None and self.width not in self.priors:
            raise ValueError(f"width {self.width} was not trained; choose from {', '.join(map(str, self.priors))}")

    @cached_property
    def priors(self) -> dict[int, WidthPrior]:
        """The prediction of each width."""
        parts = zip(self.still.codecs.items(), self.model.networks, self.model.log_entries, strict=True)
        return {
            width: WidthPrior(network, codec.model.side.entry, log_entry)
            for (width, codec), network, log_entry in parts
        }

    @cached_property
    def _hashes(self) -> dict[int, tuple[bytes, bytes]]:
        """The hashes of each width's still and temporal models, as its payloads carry them."""
        return {width: (codec.model_hash, self.model.hash_of(width)) for width, codec in self.still.codecs.items()}

    @cached_property
    def model_hash(self) -> bytes:
        """Return the hash of all weights and tables; a payload names those of its own width."""
        parts = [part for pair in self._hashes.values() for part in pair]
        return hashlib.blake2b(b"".join(parts), digest_size=HASH_BYTES).digest()

    @property
    def gop_frames(self) -> int:
        """32."""
        return GOP_FRAMES

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The still codec's."""
        return self.still.points if self.width is None else self.still.points_of(self.width)

    @property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """The still codec's."""
        return self.still.fine_points if self.width is None else self.still.fine_points_of(self.width)

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """The still codec's."""
        return self.still.all_points if self.width is None else self.still.fine_points_of(self.width)

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError if `point` names no trained width, or no lambda within its range."""
        self.still.check(point)
        if self.width is not None and point["width"] != self.width:
            raise ValueError(f"codec {self.name} has no point {point}: it has width {self.width} alone")

    def encode(self, clip: Clip, point: OperatingPoint, /) -> bytes:
        """Return the payload of a clip; see `ClipCodec.encode`."""
        frames, height, width = check_clip(clip)
        check_size(self.name, height, width)
        self.check(point)
        codec, inner = self.still.of_point(point)
        position, at_width = codec.position_of(inner), int(point["width"])
        expected = _Expected(codec, self.priors[at_width], self.model, position)
        body = bytearray()
        with torch.inference_mode():
            for index, image in enumerate(clip):
                if index % GOP_FRAMES == 0:
                    expected.begin_group()
                with section("transform"):
                    y = codec.analysed(image, position) * codec.model.side.gain[position][:, None, None]
                    symbols = symbols_of(y)
                    tables, prediction = expected.prediction(y.shape)
                    expected.see(latents_of(symbols, y.shape))
                with section("entropy"):
                    coder = Coder()
                    tables.push(coder, symbols - prediction.centres, prediction.tables)
                    words = coder_bytes(coder)
                body += (len(words) // _WORD_BYTES).to_bytes(_LENGTH_BYTES, "little") + words
        hashes = self._hashes[at_width]
        with section("container"):
            return pack(Container(CodecId.SLIMVC, height, width, (frames, position), bytes(body), *hashes))

    def accepts(self, container: Container) -> bool:
        """Return whether a payload was made with one of these very models."""
        is_ours = (container.model_hash, container.adapter_hash) in self._hashes.values()
        return container.codec_id == CodecId.SLIMVC and is_ours

    def decode(self, payload: bytes) -> Clip:
        """Return the clip uint8 (T, H, W, 3) of a payload; see `ClipCodec.decode`."""
        frames = expect(payload, CodecId.SLIMVC, num_values=2).point[0]
        return clip_from(self.frames(payload), frames)

    def frames(self, payload: bytes, first: int = 0) -> Iterator[Image]:
        """Yield the images uint8 (H, W, 3) of a payload from one of its frames on; those of groups before cost nothing.

        Raises:
            BitstreamError: if the payload is damaged, or not this codec's.
            ValueError: if there is no such frame.
        """
        with section("container"):
            container = expect(payload, CodecId.SLIMVC, num_values=2)
            codec, prior, position = self._models_of(container)
            stacks = _stacks(container)
        if not 0 <= first < len(stacks):
            raise ValueError(f"the clip has {len(stacks)} frames, none is {first}")
        rows, columns = (-(-side // STRIDE) for side in (container.height, container.width))
        shape = (1, codec.model.side.gain.shape[1], rows, columns)
        expected = _Expected(codec, prior, self.model, position)
        for index in range(first // GOP_FRAMES * GOP_FRAMES, len(stacks)):
            if index % GOP_FRAMES == 0:
                expected.begin_group()
            with torch.inference_mode():
                with section("transform"):
                    tables, prediction = expected.prediction(shape)
                with section("entropy"):
                    coder = coder_of(stacks[index])
                    symbols = tables.pop(coder, prediction.tables) + prediction.centres
                    check_read(coder)
                steps = expected.see(latents_of(symbols, shape))
                if index < first:
                    continue
                with section("transform"):
                    image = codec.synthesised(steps, position, container.height, container.width)
            yield image

    def _models_of(self, container: Container) -> tuple[NeuralStill, WidthPrior, int]:
        """Return what decodes a payload, and the position among its rates.

        Raises:
            BitstreamError: if it is another codec's, or claims too much.
        """
        needed = container.model_hash, container.adapter_hash
        width = next((width for width, hashes in self._hashes.items() if hashes == needed), None)
        if width is None:
            here = ", ".join(f"{width} {model.hex()} {own.hex()}" for width, (model, own) in self._hashes.items())
            raise BitstreamError(
                f"payload needs the slimcae model {needed[0].hex()} and the temporal model {needed[1].hex()}, "
                f"{self.name} has for its widths {here}: give its weights as slimvc:FILE"
            )
        codec, (frames, position) = self.still.codecs[width], container.point
        if position >= len(codec.model.description.lambdas):
            raise BitstreamError(
                f"payload is of position {position}, the model has {len(codec.model.description.lambdas)}"
            )
        pixels = container.height * container.width
        fits = min(container.height, container.width) >= SMALLEST_SIDE and pixels <= LARGEST_IMAGE_PIXELS
        if not fits or frames < 1 or frames * pixels > MAX_CLIP_PIXELS:
            raise BitstreamError(
                f"payload claims {frames} frames of {container.height} x {container.width} pixels, expected at least "
                f"one, sides of at least {SMALLEST_SIDE}, at most {LARGEST_IMAGE_PIXELS} pixels each and "
                f"{MAX_CLIP_PIXELS} in all"
            )
        return codec, self.priors[width], position

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return the cost of one frame that is no key frame; see `Codec.complexity`."""
        still = self.still.complexity(point, height, width)
        network = self.priors[int(point["width"])].network
        rows, columns = (-(-side // STRIDE) for side in (height, width))
        macs = network.macs(rows, columns)
        at = self.model.description.widths.index(int(point["width"]))
        own_bytes = stored_bytes(self.model.tensors_of(at))
        return Complexity(
            still.encode_macs + macs,
            still.decode_macs + macs,
            still.parameters + network.num_parameters(),
            still.weight_bytes + own_bytes,
            max(still.peak_activation_bytes, network.peak_bytes(rows, columns)),
        )


def _stacks(container: Container) -> list[bytes]:
    """Return the entropy-coded words of each frame.

    Raises:
        BitstreamError: if the body does not hold as many as the header promises, or something beside them.
    """
    body, at = container.body, 0
    stacks: list[bytes] = []
    for _ in range(container.point[0]):
        begin = at + _LENGTH_BYTES
        at = begin + _WORD_BYTES * int.from_bytes(body[at:begin], "little")
        if at > len(body) or begin > len(body):
            raise BitstreamError(
                f"body of {len(body)} bytes ends in frame {len(stacks)} of the {container.point[0]} that it promises"
            )
        stacks.append(body[begin:at])
    if at != len(body):
        raise BitstreamError(f"body has {len(body) - at} bytes behind its last frame: damaged payload?")
    return stacks
