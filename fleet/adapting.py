"""Adaptation as jobs: a vehicle watches its drive, or trains an adapter; the server trains and measures codecs.

Frames are captured anew where a job runs, adapters travel as the bytes that the uplink would carry.

Not here: which jobs there are (`codec_adaptation`, `adaptation_comparison`), when they take place (`adapter_exchange`).
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow

from roadbits.codecs.adaptation.enhancement import Enhancement, Tuned, transforms_of
from roadbits.codecs.adaptation.training import AdaptationRecipe, AdaptationTraining
from roadbits.codecs.adaptation.update import packed, unadapted, unpacked, vector_of
from roadbits.codecs.bitstream import BitstreamError
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.metrics import bpp, psnr
from roadbits.codecs.neural.model_file import FrozenModel, TransformName
from roadbits.codecs.neural.still import NeuralStill
from roadbits.fleet.adaptation_words import Adaptation, Method, has_residuals
from roadbits.fleet.backend import Shared
from roadbits.fleet.cameras.frame import DataError, FrameSource
from roadbits.fleet.drift import Watch
from roadbits.fleet.fittings import Version, file_of, maker_of, model_from
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.sources import train_source
from roadbits.fleet.uplink import US_PER_S

_MOVES: dict[Method, tuple[TransformName, ...]] = {
    "finetune": ("g_a", "g_s", "h_a", "h_s"),
    "joint": ("g_a", "g_s", "h_a", "h_s"),
    "scratch": ("g_a", "g_s", "h_a", "h_s"),
    "replay": ("g_a", "g_s"),
    "encoder": ("g_a",),
    "decoder": ("g_s",),
}
"""Which transforms a method moves; the density moves where all do, and never where old payloads are to be read on."""
_REPLAYING: tuple[Method, ...] = ("replay", "joint")


class Lesson(NamedTuple):
    """Frames of one vehicle's drive that an adaptation learns."""

    vehicle: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Notice:
    """A vehicle holds that its codec does not fit a domain.

    Attributes:
        vehicle: its number.
        domain: where it is.
        noticed_us: when it noticed.
        ready_us: when it had enough frames, or its drive ended with too few.
        frames: kept for training, positions in its drive.
        lossless_bytes: what those take to be learned from elsewhere; 0 if they never travel.
    """

    vehicle: int
    domain: str
    noticed_us: int
    ready_us: int
    frames: tuple[int, ...]
    lossless_bytes: int = 0

    @property
    def lesson(self) -> Lesson:
        """What it can learn from."""
        return Lesson(self.vehicle, self.frames)


@dataclass(frozen=True)
class Watched:
    """What a vehicle noticed on its drive.

    Attributes:
        home: domain in which the drive began, for which the source codec is taken to be made.
        usual: frames that told what is usual, positions in the drive; evenly spaced, as many as a lesson has.
        notices: of new domains, in order.
        domains: entered, the first aside, whether noticed or not.
        macs: multiply-accumulates of watching: a decoding of each frame; encoding is the drive's own.
    """

    home: str
    usual: tuple[int, ...]
    notices: tuple[Notice, ...]
    domains: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class Drive:
    """One vehicle's drive, to be watched."""

    scenario: Scenario
    vehicle: int


def source_codec(words: Adaptation) -> NeuralStill:
    """Return the codec that adapts.

    Raises:
        ValueError: if it is none that can.
    """
    codec = codec_named(words.codec)
    if not isinstance(codec, NeuralStill):
        raise ValueError(f"adaptation.codec is {words.codec}: choose a neural codec of one width, such as cae")
    return codec


def watch(drive: Drive) -> Watched:
    """Drive once through with the source codec and tell where it does not fit.

    Raises:
        DataError: if a frame cannot be read.
    """
    torch.set_num_threads(1)
    words = drive.scenario.adaptation
    assert words is not None
    codec, point, macs = source_codec(words), words.watched_at, 0
    diary = _Diary(drive.vehicle, words)
    for frame in _source(drive.scenario, drive.vehicle):
        payload = codec.encode(frame.image, point)
        rate, quality = bpp(len(payload), *frame.image.shape[:2]), psnr(codec.decode(payload), frame.image)
        diary.enter(frame.index, round(frame.time_s * US_PER_S), frame.domain, rate, quality)
        macs += codec.complexity(point, *frame.image.shape[:2]).decode_macs
    watched = diary.closed(macs)
    if "central" not in words.sharing:
        return watched
    sized = (replace(each, lossless_bytes=_lossless_bytes(drive.scenario, each.lesson)) for each in watched.notices)
    return replace(watched, notices=tuple(sized))


class _Diary:
    """What a vehicle notices, frame by frame. It knows the name of the domain it is in: by its clock, lamps, wipers."""

    def __init__(self, vehicle: int, words: Adaptation) -> None:
        self._vehicle, self._words, self._test = vehicle, words, Watch(words.drift)
        self._domains: list[str] = []
        self._now_in = ""
        self._here: list[int] = []
        self._usual: list[int] = []
        self._notices: dict[str, Notice] = {}
        self._last_us = 0

    def enter(self, frame: int, now_us: int, domain: str, rate: float, quality: float) -> None:
        """Take a frame: its position, time, domain, rate in bpp and PSNR in dB."""
        self._last_us = now_us
        if domain != self._now_in:
            self._now_in, self._here = domain, []
            self._test.begin_anew()
        if domain not in self._domains:
            self._domains.append(domain)
        if domain == self._domains[0]:
            self._usual.append(frame)
            self._test.learn(rate, quality)
            return
        self._here = [*self._here, frame][-self._words.frames :]
        if (notice := self._notices.get(domain)) is not None:
            if len(notice.frames) < self._words.frames:
                self._notices[domain] = replace(notice, frames=(*notice.frames, frame), ready_us=now_us)
            return
        since = self._test.see(frame, rate, quality)
        if since is not None:
            recent = tuple(k for k in self._here if k >= since) or (frame,)
            self._notices[domain] = Notice(self._vehicle, domain, now_us, now_us, recent)

    def closed(self, macs: int) -> Watched:
        """Return the diary, with what it took to keep it.

        A vehicle may come back to a domain that it left with too few frames: until its drive ends it waits for more.
        """
        home, *entered = self._domains
        count = min(len(self._usual), self._words.frames)
        usual = tuple(self._usual[len(self._usual) * k // count] for k in range(count))
        notices = (
            each if len(each.frames) == self._words.frames else replace(each, ready_us=self._last_us)
            for each in self._notices.values()
        )
        return Watched(home, usual, tuple(notices), tuple(entered), macs)


@dataclass(frozen=True)
class Lessons:
    """Some steps of training an adapter.

    Attributes:
        scenario: the run's words.
        lessons: frames to learn.
        start: an adapter's update to begin from; empty for the source itself.
        first_step: of the whole adaptation.
        steps: to take now.
        seed: of crops and noise.
        with_residuals: or of the density alone.
    """

    scenario: Scenario
    lessons: tuple[Lesson, ...]
    start: bytes
    first_step: int
    steps: int
    seed: int
    with_residuals: bool = True


def train_adapter(job: Lessons) -> bytes:
    """Train an adapter for some steps and return its update, as it travels.

    Raises:
        AdapterError: if what came of it cannot travel: it is not finite.
        DataError: if a frame cannot be read, or is smaller than a crop.
    """
    words = job.scenario.adaptation
    assert words is not None
    torch.set_num_threads(words.threads)
    source = source_codec(words).model
    enhancement = unpacked(source, job.start) if job.start else unadapted(source, job.with_residuals)
    recipe = _recipe(words, job.seed, words.learning_rate)
    _run(enhancement, recipe, _images(job.scenario, job.lessons), (), job.first_step, job.first_step + job.steps)
    return packed(enhancement)


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning a codec in one place.

    Attributes:
        scenario: the run's words.
        method: what moves.
        lessons: frames to learn.
        replayed: frames of the source's domain, for the method that replays them.
        start: a model's file to begin from; empty for the source itself.
        seed: of crops and noise.
    """

    scenario: Scenario
    method: Method
    lessons: tuple[Lesson, ...]
    replayed: tuple[Lesson, ...]
    start: bytes
    seed: int


def tune_codec(job: Tuning) -> bytes:
    """Fine-tune a codec and return the file of the model that comes of it.

    Raises:
        DataError: if a frame cannot be read, or is smaller than a crop.
    """
    words = job.scenario.adaptation
    assert words is not None
    torch.set_num_threads(words.threads)
    source = model_from(job.start) if job.start else source_codec(words).model
    moving = [name for name in _MOVES[job.method] if source.hyper or name in ("g_a", "g_s")]
    tuned = Tuned(source, moving, moves_density=moves_density(job.method))
    rate = words.tuning_rate
    if job.method == "scratch":
        tuned.forget(job.seed)
        rate = words.learning_rate
    replayed = _images(job.scenario, job.replayed) if job.method in _REPLAYING else []
    recipe = replace(_recipe(words, job.seed, rate), replays_latents=job.method == "replay")
    _run(tuned, recipe, _images(job.scenario, job.lessons), replayed, 0, recipe.steps)
    return file_of(tuned.freeze())


def moves_density(method: Method) -> bool:
    """Return whether a method moves the factorised density."""
    return method not in ("encoder", "decoder", "replay")


def moved_weights(source: FrozenModel, method: Method) -> int:
    """Return how many numbers a method adds or changes."""
    if method in ("cawf", "density"):
        return len(vector_of(unadapted(source, has_residuals(method))))
    moving = [transform for name, transform in transforms_of(source).items() if name in _MOVES[method]]
    density = len(vector_of(unadapted(source, with_residuals=False))) if moves_density(method) else 0
    return sum(transform.num_parameters() for transform in moving) + density


def _recipe(words: Adaptation, seed: int, learning_rate: float) -> AdaptationRecipe:
    return AdaptationRecipe(
        steps=words.all_steps,
        batch_size=words.batch_size,
        crop=words.crop,
        learning_rate=learning_rate,
        density_rate=words.density_rate,
        proximal=words.strategy.pull,
        seed=seed,
    )


def _run(
    enhancement: Enhancement,
    recipe: AdaptationRecipe,
    images: Sequence[Image],
    replayed: Sequence[Image],
    first: int,
    last: int,
) -> None:
    try:
        for _ in AdaptationTraining(enhancement, images, recipe, replayed, first).run(last):
            pass
    except ValueError as error:
        raise DataError(f"adaptation: {error}") from error


@dataclass(frozen=True)
class Measuring:
    """A codec to measure on frames uint8 (H, W, 3) at a point."""

    version: Version
    frames: Shared[list[Image]]
    point: OperatingPoint


def measure_version(job: Measuring) -> tuple[float, float]:
    """Return mean bpp and mean PSNR in dB, of real payloads."""
    torch.set_num_threads(1)
    codec, rates, qualities = job.version.codec(), [], []
    for image in job.frames.get():
        payload = codec.encode(image, job.point)
        rates.append(bpp(len(payload), *image.shape[:2]))
        qualities.append(psnr(codec.decode(payload), image))
    return float(np.mean(rates)), float(np.mean(qualities))


@dataclass(frozen=True)
class OldPayloads:
    """Frames whose payloads the source codec made before versions replaced it or stood beside it."""

    versions: tuple[Version, ...]
    frames: Shared[list[Image]]
    point: OperatingPoint


class StillDecodable(NamedTuple):
    """What became of the source's payloads.

    Attributes:
        exact: share that still decode bit for bit.
        change_db: by how much PSNR changes where a version reads them as its own; None if it cannot read one.
    """

    exact: float
    change_db: float | None


def still_decodable(job: OldPayloads) -> list[StillDecodable]:
    """Return for each version what became of the source's payloads.

    An adapter stands beside its source; a model that replaces it is all there is, and reads them as its own, though
    they name the source's weights.
    """
    torch.set_num_threads(1)
    source = Version(job.versions[0].source)
    payloads = [source.codec().encode(image, job.point) for image in job.frames.get()]
    images = [source.codec().decode(payload) for payload in payloads]
    found = []
    for version in job.versions:
        exact = [_decodes_to(version, payload, image) for payload, image in zip(payloads, images, strict=True)]
        changes = [
            _change_db(version, payload, image, original)
            for payload, image, original in zip(payloads, images, job.frames.get(), strict=True)
        ]
        known = [change for change in changes if change is not None]
        found.append(
            StillDecodable(float(np.mean(exact)), float(np.mean(known)) if len(known) == len(changes) else None)
        )
    return found


def _change_db(version: Version, payload: bytes, before: Image, original: Image) -> float | None:
    """Return by how much a version decodes an old payload better than the source did."""
    if not version.model:
        return 0.0
    codec = replace(version.codec(), source_hash=Version(version.source).codec().model_hash)
    try:
        return psnr(codec.decode(payload), original) - psnr(before, original)
    except BitstreamError:
        return None


def _decodes_to(version: Version, payload: bytes, image: Image) -> bool:
    known = [] if version.model else [Version(version.source).codec()]
    try:
        return bool(np.array_equal(maker_of(payload, known, version.codec()).decode(payload), image))
    except BitstreamError:
        return False


def _lossless_bytes(scenario: Scenario, lesson: Lesson) -> int:
    """Return what the frames of a lesson take as lossless WebP."""
    total = 0
    for image in _images(scenario, (lesson,)):
        file = io.BytesIO()
        Pillow.fromarray(image).save(file, "webp", lossless=True, quality=100)
        total += len(file.getvalue())
    return total


def _source(scenario: Scenario, vehicle: int) -> FrameSource:
    return train_source(scenario.cameras, scenario.seed, vehicle, scenario.fleet.num_vehicles)


def _images(scenario: Scenario, lessons: Sequence[Lesson]) -> list[Image]:
    """Return the frames of lessons, in order."""
    images = []
    for lesson in lessons:
        source, wanted = _source(scenario, lesson.vehicle), set(lesson.frames)
        frames = source.starting_at(min(wanted))
        images += [
            frame.image for frame in itertools.islice(frames, max(wanted) - min(wanted) + 1) if frame.index in wanted
        ]
    return images
