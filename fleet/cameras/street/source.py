"""Frames of the generated street: a camera on a moving vehicle, one street per vehicle and split.

The world is generated from a seed: nothing is downloaded. Labels are exact, without ignored pixels. Pictures are
smoother than photographs: bit rates from them must not stand beside those of real drives without a label.

Not here: drawing (`renderer`), weather (`weather`), the plan of the street (`layout`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from roadbits.fleet.cameras.classes import CAMVID11, ClassSet
from roadbits.fleet.cameras.frame import Frame
from roadbits.fleet.cameras.street.layout import Place, StreetKey
from roadbits.fleet.cameras.street.renderer import LOCK, engine
from roadbits.fleet.cameras.street.stage import stage
from roadbits.fleet.cameras.street.weather import AIRS, WEATHERS, develop

_HIGHWAY = "-highway"
DOMAINS: tuple[str, ...] = (*WEATHERS, *(weather + _HIGHWAY for weather in WEATHERS))
"""A weather in the city, or the same on a highway."""
_SIZES = range(16, 4097)


@dataclass(frozen=True, kw_only=True)
class StreetSource:
    """The drive of one vehicle along its own street.

    The frames are divided over `domains` in consecutive, as equal as possible runs, in that order. A frame depends
    only on the arguments and its index (not on `num_frames`, but for the domain), never on what was drawn before.

    Attributes:
        seed: of the experiment.
        split: `train`, `reference` or `test`; splits share no street and no texture.
        vehicle: number of the vehicle, 0 or more.
        domains: names from `DOMAINS`.
        num_frames: length of the drive.
        interval_s: seconds between frames.
        height: of a frame, in pixels.
        width: of a frame, in pixels.

    Raises:
        ValueError: for an unknown domain, a size outside 16..4096, or a number out of range.
        DataError: at the first frame, when a system library of the renderer is missing.
    """

    seed: int
    split: str
    vehicle: int
    domains: tuple[str, ...]
    num_frames: int
    interval_s: float
    height: int = 360
    width: int = 480

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.domains:
            raise ValueError(f"domains must name at least one of {', '.join(DOMAINS)}, got none")
        for domain in self.domains:
            if domain not in DOMAINS:
                raise ValueError(f"unknown domain {domain!r}; choose from {', '.join(DOMAINS)}")
        for name, size in (("height", self.height), ("width", self.width)):
            if size not in _SIZES:
                raise ValueError(f"{name} must be in {_SIZES[0]}..{_SIZES[-1]}, got {size}")
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}")
        if not 0 < self.interval_s < float("inf"):
            raise ValueError(f"interval_s must be a finite number greater than 0, got {self.interval_s}")
        for name, number in (("seed", self.seed), ("vehicle", self.vehicle)):
            if number < 0:
                raise ValueError(f"{name} must be at least 0, got {number}")

    @property
    def classes(self) -> ClassSet:
        """CamVid's 11 classes."""
        return CAMVID11

    @property
    def last_time_s(self) -> float:
        """When the last frame is taken, in seconds since the drive began."""
        return (self.num_frames - 1) * self.interval_s

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.num_frames

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order of time."""
        return self.starting_at(0)

    def starting_at(self, first: int) -> Iterator[Frame]:
        """Yield the frames from position `first` on."""
        return (self.frame(index) for index in range(first, self.num_frames))

    def domain(self, index: int) -> str:
        """Return the domain of frame `index`."""
        return self.domains[index * len(self.domains) // self.num_frames]

    def frame(self, index: int) -> Frame:
        """Return frame `index`.

        Raises:
            IndexError: when `index` is not in 0..num_frames - 1.
        """
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} is not in 0..{self.num_frames - 1}")
        domain = self.domain(index)
        weather = domain.removesuffix(_HIGHWAY)
        place: Place = "highway" if domain.endswith(_HIGHWAY) else "city"
        key = StreetKey(self.seed, self.split, self.vehicle, place)
        time_s = index * self.interval_s
        skies = AIRS[weather].skies
        with LOCK:
            renderer, scene = engine(), stage(key)
            pose = scene.show(time_s, skies[self.vehicle % len(skies)], self.height, self.width)
            picture = renderer.draw(scene, self.height, self.width)
        noise = key.rng(9 + WEATHERS.index(weather), index)
        image = develop(picture, weather, pose, noise)
        return Frame(image, picture.label, f"vehicle-{self.vehicle:02d}", index, time_s, domain)
