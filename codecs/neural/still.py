"""Neural still codecs: frozen models behind the interface that JPEG has too.

Encoding and decoding run exact networks only, so one image and one operating point give the same payload, and one
payload the same image, on any machine and with any number of threads.

A body is one entropy-coded stack: z, if there is one, then y, stage after stage where it has a context. The container
names the model's hash and the position among its rates.

Not here: the networks (`cae`, `hyperprior`, `integer`), files of weights (`model_file`).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roadbits.codecs.bitstream import BitstreamError, CodecId, Container, expect, pack
from roadbits.codecs.codec import Complexity, Image, OperatingPoint, check_image
from roadbits.codecs.integer import LARGEST_ACTIVATION, row_of
from roadbits.codecs.neural.context_model import Begun, ContextModel, Expected, Stage, begun_with
from roadbits.codecs.neural.model_file import FrozenModel, Hyper, Side
from roadbits.codecs.symbol_tables import Coder, Symbols, SymbolTables, check_read, coder_bytes, coder_of
from roadbits.codecs.timing import section

SMALLEST_SIDE = 16
LARGEST_IMAGE_PIXELS = 4096 * 4096
"""Decoding takes up to 150 bytes per pixel: a payload must not be able to ask for more."""
_LAMBDA, _BIN = "lambda", "bin"
_SIGNIFICANT = 4
_LARGEST_LATENT = 2.0**21
_Y_STRIDE, _Z_STRIDE = 16, 64

_CODEC_IDS = {"cae": CodecId.CAE, "hyperprior": CodecId.HYPERPRIOR}


@dataclass(frozen=True, eq=False)
class NeuralStill:
    """A still codec with the weights of one frozen model.

    Attributes:
        name: on the command line; with a file of one's own, the file follows a colon.
        model: the weights and tables.
        source_hash: of the model that an adapter was put on; empty without one.
        adapter_hash: of that adapter.
    """

    name: str
    model: FrozenModel
    source_hash: bytes = b""
    adapter_hash: bytes = b""

    @property
    def model_hash(self) -> bytes:
        """Return the hash of the weights and tables, an adapter's aside, which every payload names."""
        return self.source_hash or self.model.hash

    @property
    def codec_id(self) -> CodecId:
        """Return what its payloads name as their codec."""
        return _CODEC_IDS[self.model.description.architecture]

    @property
    def stride(self) -> int:
        """Return what sides are padded to a multiple of."""
        return _Z_STRIDE if self.model.hyper else _Y_STRIDE

    @cached_property
    def fine_points(self) -> tuple[OperatingPoint, ...]:
        """Every position of the model, from the lowest rate up."""
        description = self.model.description
        if not description.bin_widths:
            return tuple(_point(lmbda) for lmbda in description.lambdas)
        return tuple(map(_point, description.lambdas, description.bin_widths))

    @property
    def all_points(self) -> tuple[OperatingPoint, ...]:
        """The same: all cost alike."""
        return self.fine_points

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """The positions that were trained."""
        return tuple(self.fine_points[position] for position in self.model.description.trained)

    def check(self, point: OperatingPoint) -> None:
        """Raise ValueError if `point` is no lambda, and bin width if there are some, within the model's range."""
        self.position_of(point)

    def position_of(self, point: OperatingPoint) -> int:
        """Return the position whose lambda is nearest, in ratio, and of those the one whose bin width is."""
        settings = dict(point.settings)
        if self.model.description.bin_widths:
            settings.setdefault(_BIN, 1.0)
        offered = {knob: [here[knob] for here in self.fine_points] for knob, _ in self.fine_points[0].settings}
        if settings.keys() != offered.keys() or any(
            not min(values) <= settings[knob] <= max(values) for knob, values in offered.items()
        ):
            ranges = " and ".join(f"{knob} from {min(values)} to {max(values)}" for knob, values in offered.items())
            raise ValueError(f"codec {self.name} has no point {point}: choose {ranges}")
        return min(
            range(len(self.fine_points)),
            key=lambda position: [abs(math.log(offered[knob][position] / settings[knob])) for knob in offered],
        )

    def encode(self, image: Image, point: OperatingPoint) -> bytes:
        """Return the payload of an image; see `Codec.encode`."""
        height, width = check_image(image)
        check_size(self.name, height, width)
        position = self.position_of(point)
        coder = Coder()
        with torch.inference_mode():
            with section("transform"):
                latents = self._quantised(self.analysed(image, position), position)
            with section("entropy"):
                for tables, values, which in latents:
                    tables.push(coder, values, which)
                body = coder_bytes(coder)
        with section("container"):
            return pack(Container(self.codec_id, height, width, (position,), body, self.model_hash, self.adapter_hash))

    def analysed(self, image: Image, position: int) -> Tensor:
        """Return y (1, C, h, w), unquantised, of an image padded by repeating its edges."""
        below, right = (-side % self.stride for side in image.shape[:2])
        padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
        x = _channels_last(torch.from_numpy(padded).permute(2, 0, 1)[None].float())
        return self.model.g_a(x, position)

    def _quantised(self, y: Tensor, position: int) -> list[tuple[SymbolTables, Symbols, NDArray[np.integer]]]:
        """Return what goes onto the stack, in order: each latent's tables, its symbols and the table of each."""
        hyper = self.model.hyper
        if hyper is None:
            symbols = rounded(y * _vector(self.model.side.gain[position]))
            return list(reversed(self._parts(symbols, None, position)))
        z_symbols, symbols, which = self._coded(hyper, y, position)
        z_rows = factorised_rows(hyper.side, position, z_symbols.shape)
        return [
            *reversed(self._parts(symbols, which, position)),
            (self.model.tables, z_symbols.reshape(-1).numpy(), z_rows),
        ]

    def _coded(self, hyper: Hyper, y: Tensor, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the symbols of z (1, N, h, w) and of y (1, M, h, w), and the tables of the latter, all int32."""
        magnitudes = y if self.model.description.means else y.abs()
        z = hyper.h_a(_steps(magnitudes, row_of(hyper.y_entry, position)), position) * _vector(
            hyper.side.gain[position]
        )
        z_symbols = rounded(z)
        which, means = self._gaussians(hyper, z_symbols.float(), position)
        return z_symbols, rounded(y * _vector(self.model.side.gain[position]) - means), which

    def coded(self, x: Tensor, position: int) -> tuple[Tensor, Tensor | None]:
        """Return symbols of y, and what h_s expects of them: its tables, before any context moves them.

        Args:
            x: grey levels (1, 3, H, W), sides multiples of the stride.
            position: among the rates.

        Returns:
            Symbols int32 (1, M, h, w), and the table of each, likewise; None without h_s.
        """
        with torch.no_grad():
            y = self.model.g_a(_channels_last(x), position)
            if self.model.hyper is None:
                return rounded(y * _vector(self.model.side.gain[position])), None
            return self._coded(self.model.hyper, y, position)[1:]

    @cached_property
    def _begun_with(self) -> Begun:
        """What the tables say where nothing is known (positions, M)."""
        assert self.model.context is not None
        begun = begun_with(self.model.tables, self.model.context.inverse_scales)
        return begun.reshaped(*self.model.side.gain.shape)

    def _begun(self, context: ContextModel, which: Tensor | None, position: int) -> tuple[Begun, Begun]:
        """Return what a context begins with, and from where it looks.

        These are a hyperprior's tables (1, M, h, w), or what the factorised ones say of each channel (1, M, 1, 1).
        """
        if which is not None:
            begun = Begun(which, None)
            return begun, begun
        own = self._begun_with
        return own.at(position), (context.origin or own).at(position)

    def _parts(
        self, symbols: Tensor, which: Tensor | None, position: int
    ) -> list[tuple[SymbolTables, Symbols, NDArray[np.integer]]]:
        """Return y's symbols (1, M, h, w) as they are coded: tables, what is looked up in them, and which it is.

        Args:
            symbols: whole numbers.
            which: the table of each that h_s has for it; None without h_s.
            position: among the rates.
        """
        context = self.model.context
        if context is None:
            tables = self.model.hyper.tables if self.model.hyper else self.model.tables
            rows = factorised_rows(self.model.side, position, symbols.shape) if which is None else _flat(which)
            return [(tables, _flat(symbols), rows)]
        parts: list[tuple[SymbolTables, Symbols, NDArray[np.integer]]] = []
        ordered = symbols[:, context.order]

        def hand_out(stage: Stage, expected: Expected | None) -> Symbols:
            values: Symbols = stage.picked(ordered).numpy()
            tables, (rows, centres) = self._tables_of(context, stage, expected, position, symbols.shape)
            parts.append((tables, (values - centres).astype(np.int32), rows))
            return values

        context.run(*self._begun(context, which, position), (symbols.shape[2], symbols.shape[3]), hand_out)
        return parts

    def _tables_of(
        self, context: ContextModel, stage: Stage, expected: Expected | None, position: int, shape: torch.Size
    ) -> tuple[SymbolTables, Expected]:
        """Return a stage's tables, and which is each symbol's; where nothing is expected, the codec's own."""
        if expected is None:
            channels = shape[1]
            rows = (context.order[stage.own] + position * channels)[None, :, None, None]
            places = stage.picked_of_own(rows.expand(1, -1, *shape[2:])).numpy()
            return self.model.tables, Expected(places, np.zeros(len(places), np.int32))
        if context.offset_tables:
            return context.offset_tables.tables, expected
        assert self.model.hyper is not None
        return self.model.hyper.tables, expected

    def accepts(self, container: Container) -> bool:
        """Return whether a payload was made with this very model, and adapter."""
        identity = container.codec_id, container.model_hash, container.adapter_hash
        return identity == (self.codec_id, self.model_hash, self.adapter_hash)

    def decode(self, payload: bytes) -> Image:
        """Return the image of a payload; see `Codec.decode`."""
        with section("container"):
            container = expect(payload, self.codec_id, num_values=1)
        if container.model_hash != self.model_hash:
            raise BitstreamError(
                f"payload needs the model {container.model_hash.hex()}, {self.name} has {self.model_hash.hex()}: "
                f"give its weights as {named_weights(self.model.description.architecture)}"
            )
        if container.adapter_hash != self.adapter_hash:
            raise BitstreamError(
                f"payload needs {_adapter(container.adapter_hash)} on the model {container.model_hash.hex()}, "
                f"{self.name} has {_adapter(self.adapter_hash)}"
            )
        (position,) = container.point
        if position >= len(self.model.description.lambdas):
            raise BitstreamError(
                f"payload is of position {position}, the model has {len(self.model.description.lambdas)}"
            )
        pixels = container.height * container.width
        if min(container.height, container.width) < SMALLEST_SIDE or pixels > LARGEST_IMAGE_PIXELS:
            raise BitstreamError(
                f"payload claims {container.height} x {container.width} pixels, {self.name} writes sides of at least "
                f"{SMALLEST_SIDE} and at most {LARGEST_IMAGE_PIXELS} pixels in all"
            )
        with torch.inference_mode():
            y_hat = self._pop(coder_of(container.body), container.height, container.width, position)
            with section("transform"):
                return self.synthesised(self.steps(y_hat, position), position, container.height, container.width)

    def steps(self, y_hat: Tensor, position: int) -> Tensor:
        """Return y_hat (1, C, h, w), still multiplied by its gain, as the whole steps that enter g_s."""
        return _steps(y_hat, self.model.side.entry[position])

    def synthesised(self, steps: Tensor, position: int, height: int, width: int) -> Image:
        """Return the image uint8 (height, width, 3) of what enters g_s (1, C, h, w)."""
        x_hat = self.model.g_s(steps, position)
        image = x_hat[0, :, :height, :width].permute(1, 2, 0).to(torch.uint8)
        return np.ascontiguousarray(image.numpy())

    def _pop(self, coder: Coder, height: int, width: int, position: int) -> Tensor:
        """Return y_hat (1, C, h, w), still multiplied by its gain."""
        hyper, means = self.model.hyper, None
        rows, columns = (-(-extent // self.stride) * (self.stride // _Y_STRIDE) for extent in (height, width))
        shape = torch.Size((1, self.model.side.gain.shape[1], rows, columns))
        which = None
        if hyper:
            z_shape = (1, hyper.side.gain.shape[1], rows * _Y_STRIDE // _Z_STRIDE, columns * _Y_STRIDE // _Z_STRIDE)
            with section("entropy"):
                z_symbols = self.model.tables.pop(coder, factorised_rows(hyper.side, position, z_shape))
            with section("transform"):
                which, means = self._gaussians(hyper, latents_of(z_symbols, z_shape), position)
        symbols = self._popped(coder, which, position, shape)
        check_read(coder)
        return symbols.float() if means is None else symbols.float() + means

    def _popped(self, coder: Coder, which: Tensor | None, position: int, shape: torch.Size) -> Tensor:
        """Return y's symbols, int32 of that shape; see `_parts`."""
        context = self.model.context
        if context is None:
            tables = self.model.hyper.tables if self.model.hyper else self.model.tables
            with section("entropy"):
                rows = factorised_rows(self.model.side, position, shape) if which is None else _flat(which)
                return torch.from_numpy(tables.pop(coder, rows)).reshape(shape)

        def read(stage: Stage, expected: Expected | None) -> Symbols:
            with section("entropy"):
                tables, (rows, centres) = self._tables_of(context, stage, expected, position, shape)
                return (tables.pop(coder, rows) + centres).astype(np.int32)

        with section("transform"):
            return context.run(*self._begun(context, which, position), (shape[2], shape[3]), read)

    def _gaussians(self, hyper: Hyper, z_hat: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Return the table of each value of y, int32 (1, M, h, w), and the means, float32."""
        predicted = hyper.h_s(_steps(z_hat, hyper.side.entry[position]), position)
        gain = _vector(self.model.side.gain[position])
        if self.model.description.means:
            scales, means = predicted.chunk(2, dim=1)
            means = means * gain
        else:
            scales, means = predicted, predicted.new_zeros(1)
        return torch.bucketize((scales * gain).contiguous(), hyper.thresholds, out_int32=True), means

    def complexity(self, point: OperatingPoint, height: int, width: int) -> Complexity:
        """Return the cost of one image; see `Codec.complexity`."""
        self.position_of(point)
        rows, columns = (-(-side // self.stride) * self.stride for side in (height, width))
        latent = (rows // _Y_STRIDE, columns // _Y_STRIDE)
        encode, decode = self.model.g_a.macs(rows, columns), self.model.g_s.macs(*latent)
        parameters = self.model.g_a.num_parameters() + self.model.g_s.num_parameters()
        if hyper := self.model.hyper:
            hyper_latent = (rows // _Z_STRIDE, columns // _Z_STRIDE)
            encode += hyper.h_a.macs(*latent) + hyper.h_s.macs(*hyper_latent)
            decode += hyper.h_s.macs(*hyper_latent)
            parameters += hyper.h_a.num_parameters() + hyper.h_s.num_parameters()
        if context := self.model.context:
            encode, decode = encode + context.macs(*latent), decode + context.macs(*latent)
            parameters += context.num_parameters()
        # g_a's first layers work at many times the places of all that follows: the peak of an encode is theirs.
        peak = self.model.g_a.peak_bytes(rows, columns)
        return Complexity(encode, decode, parameters, self.model.num_bytes, peak)


def named_weights(architecture: str) -> str:
    """Return the names under which a file of weights of an architecture may be given."""
    return f"{architecture}:FILE, or as slim{architecture}:FILE if they are of several widths"


def check_size(name: str, height: int, width: int) -> None:
    """Refuse an image's size.

    Raises:
        ValueError: if a side is too small, or there are too many pixels.
    """
    if min(height, width) < SMALLEST_SIDE or height * width > LARGEST_IMAGE_PIXELS:
        raise ValueError(
            f"codec {name} wants sides of at least {SMALLEST_SIDE} and at most {LARGEST_IMAGE_PIXELS} pixels in all, "
            f"got {height} x {width}"
        )


def factorised_rows(side: Side, position: int, shape: tuple[int, ...] | torch.Size) -> NDArray[np.int64]:
    """Return the factorised table of each value (n,) of a latent of that shape (1, C, h, w)."""
    channels = shape[1]
    return np.repeat(np.arange(channels) + position * channels, math.prod(shape[2:]))


def _adapter(digest: bytes) -> str:
    return f"the adapter {digest.hex()}" if digest else "no adapter"


def _point(lmbda: float, bin_width: float | None = None) -> OperatingPoint:
    settings = {_LAMBDA: lmbda} | ({} if bin_width is None else {_BIN: bin_width})
    return OperatingPoint.of(**{knob: float(f"{value:.{_SIGNIFICANT}g}") for knob, value in settings.items()})


def _flat(values: Tensor) -> NDArray[Any]:
    return values.reshape(-1).numpy()


def _vector(values: Tensor) -> Tensor:
    return values[:, None, None]


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _steps(values: Tensor, entry: Tensor) -> Tensor:
    """Return values as the whole steps that a transform takes."""
    steps = values * _vector(entry)
    return _channels_last(steps.add_(0.5).floor_().clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION))


def rounded(values: Tensor) -> Tensor:
    """Return rounded values, int32; bounded, so that the escape's distance is."""
    return values.round().clamp_(-_LARGEST_LATENT, _LARGEST_LATENT).to(torch.int32)


def symbols_of(values: Tensor) -> Symbols:
    """Return rounded values (n,)."""
    return rounded(values).reshape(-1).numpy()


def latents_of(symbols: Symbols, shape: tuple[int, ...]) -> Tensor:
    """Return symbols as numbers of that shape."""
    return torch.from_numpy(symbols).reshape(shape).float()
