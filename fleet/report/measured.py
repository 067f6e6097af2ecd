"""A run's results, grouped by arm as tables and charts want them.

Not here: how anything is shown (`page`, `terminal`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadbits.fleet.results import DownstreamRow, Results, UploadRow

SETUPS = ("OO", "CO", "RO", "CC", "OC", "RC")
"""Every setup, in the order of tables and charts."""


@dataclass(frozen=True)
class Spread:
    """One quantity over the seeds; at least one."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.by_seed.values()) / len(self.by_seed)

    @property
    def low(self) -> float:
        """The lowest."""
        return min(self.by_seed.values())

    @property
    def high(self) -> float:
        """The highest."""
        return max(self.by_seed.values())

    @property
    def half_range(self) -> float:
        """Half the distance from the lowest to the highest."""
        return (self.high - self.low) / 2

    def less(self, other: "Spread") -> "Spread":
        """Return the difference, seed by seed of those that both have."""
        common = self.by_seed.keys() & other.by_seed.keys()
        assert common
        return Spread({seed: self.by_seed[seed] - other.by_seed[seed] for seed in sorted(common)})


@dataclass(frozen=True)
class MeasuredArm:
    """One codec at one operating point: what its fleet sent and what that was worth.

    Attributes:
        upload: rate, distortion and deliveries.
        miou: per setup, 0..1; a setup that was not measured is missing.
        per_class: per setup, the IoU of each class that occurs, mean over seeds.
        absent: classes that occurred in no measurement.
        line: what joins it to others in a chart: its codec, and the width of a codec of several.
        restorer: whose RO and RC `miou` and `per_class` hold, of several the best in RO; None without one.
    """

    upload: UploadRow
    miou: Mapping[str, Spread]
    per_class: Mapping[str, Mapping[str, float]]
    absent: Sequence[str]
    line: str
    restorer: str | None = None

    @property
    def name(self) -> str:
        """Codec and operating point, as people read it."""
        return f"{self.upload.codec} {self.upload.point}"

    @property
    def is_fixed(self) -> bool:
        """Whether every frame was encoded at one point."""
        return self.upload.policy == "fixed"

    @property
    def lost_information(self) -> float | None:
        """OO - CC: what compression took away for good; None unless both were measured."""
        return self._difference("OO", "CC")

    @property
    def covariate_shift(self) -> float | None:
        """CC - CO: what it costs that test frames look unlike training frames; None unless both were measured."""
        return self._difference("CC", "CO")

    @property
    def megabytes_per_vehicle_hour(self) -> float | None:
        """Bytes that travelled per hour of driving, in MB; None if nobody drove."""
        hours = self.upload.vehicle_hours
        return self.upload.bytes / 1e6 / hours if hours else None

    @property
    def joules_per_delivered_frame(self) -> float | None:
        """Energy of encoding and sending per delivered frame; None if none was delivered."""
        return self.upload.energy_j / self.upload.delivered if self.upload.delivered else None

    @property
    def gmac_per_encoded_frame(self) -> float | None:
        """Billions of multiply-accumulates, those of a policy's trials shared out; None if nothing was encoded."""
        encoded = sum(self.upload.points_used.values())
        return self.upload.encode_gmac / encoded if encoded else None

    def _difference(self, setup: str, other: str) -> float | None:
        if setup not in self.miou or other not in self.miou:
            return None
        return self.miou[setup].mean - self.miou[other].mean


@dataclass(frozen=True)
class MeasuredRun:
    """A run under the name that the page gives it."""

    name: str
    folder: Path
    results: Results
    arms: Sequence[MeasuredArm]

    @property
    def ideal(self) -> Spread | None:
        """MIoU of OO, which is the same for every arm; None if it was not measured."""
        return next((arm.miou["OO"] for arm in self.arms if "OO" in arm.miou), None)

    @property
    def sends_alike(self) -> bool:
        """Whether every arm sends as many of its frames: only then do bits per pixel compare what they cost."""
        return len({arm.upload.every for arm in self.arms}) < 2

    @property
    def seeds(self) -> list[int]:
        """The segmenters' seeds."""
        return sorted({row.seed for row in self.results.downstream})


def measured_arms(results: Results) -> list[MeasuredArm]:
    """Return a run's arms in the order of its uploads."""
    lines = _lines(results.uploads)
    return [_measured(upload, results.downstream, line) for upload, line in zip(results.uploads, lines, strict=True)]


def setups_of(arms: Sequence[MeasuredArm]) -> list[str]:
    """Return the setups that were measured for any arm, in the order of `SETUPS`."""
    return [setup for setup in SETUPS if any(setup in arm.miou for arm in arms)]


def best_arm(arms: Sequence[MeasuredArm], setup: str) -> MeasuredArm | None:
    """Return the arm with the highest mean mIoU in a setup, the cheaper of equals; None if none was measured."""
    measured = [arm for arm in arms if setup in arm.miou]
    return max(measured, key=lambda arm: (arm.miou[setup].mean, -arm.upload.bpp), default=None)


def cheapest_first(arms: Sequence[MeasuredArm]) -> list[MeasuredArm]:
    """Return the arms of which anything travelled, by rising bpp."""
    return sorted((arm for arm in arms if arm.upload.bpp > 0), key=lambda arm: arm.upload.bpp)


def _lines(uploads: Sequence[UploadRow]) -> list[str]:
    """Return the codec of each; with the width of a codec that has a width with several fixed points, and how often."""
    widths = [_width(row) for row in uploads]
    times = Counter((row.codec, width) for row, width in zip(uploads, widths, strict=True) if width)
    split = {codec for (codec, _), count in times.items() if count > 1}
    of_width = [
        f"{row.codec} {width}" if width and row.codec in split else row.codec
        for row, width in zip(uploads, widths, strict=True)
    ]
    several = {
        row.codec for row in uploads for other in uploads if row.codec == other.codec and _sent(row) != _sent(other)
    }
    return [line + _sent(row) * (row.codec in several) for line, row in zip(of_width, uploads, strict=True)]


def _sent(row: UploadRow) -> str:
    """Return how often an arm sends, and clips of how many frames."""
    every = f", 1 frame of {row.every}" if row.every > 1 else ""
    return every + (f", clips of {row.clip_frames}" if row.clip_frames else "")


def _width(row: UploadRow) -> str:
    """Return the width of a fixed point, which also has another setting; else nothing."""
    settings = row.point.split(",") if row.policy == "fixed" else []
    return next((each for each in settings if each.startswith("width=")), "") if len(settings) > 1 else ""


def _measured(upload: UploadRow, downstream: Sequence[DownstreamRow], line: str) -> MeasuredArm:
    rows = [row for row in downstream if (row.codec, row.point) == (upload.codec, upload.point)]
    restorer = _best_restorer(rows)
    rows = [row for row in rows if row.restorer in (None, restorer)]
    by_setup = {setup: [row for row in rows if row.setup == setup] for setup in SETUPS}
    by_setup = {setup: chosen for setup, chosen in by_setup.items() if chosen}
    per_class = {setup: _mean_per_class(chosen) for setup, chosen in by_setup.items()}
    occurring = {name for ious in per_class.values() for name in ious}
    return MeasuredArm(
        upload,
        {setup: Spread({row.seed: row.miou for row in chosen}) for setup, chosen in by_setup.items()},
        per_class,
        [name for name in dict.fromkeys(name for row in rows for name in row.absent) if name not in occurring],
        line,
        restorer,
    )


def _best_restorer(rows: Sequence[DownstreamRow]) -> str | None:
    """Return the restorer of the highest mean mIoU in RO, in RC where RO was not measured; None without any."""
    setup = "RO" if any(row.setup == "RO" for row in rows) else "RC"
    mious: dict[str, list[float]] = {}
    for row in rows:
        if row.restorer is not None and row.setup == setup:
            mious.setdefault(row.restorer, []).append(row.miou)
    return max(mious, key=lambda name: sum(mious[name]) / len(mious[name]), default=None)


def _mean_per_class(rows: Sequence[DownstreamRow]) -> dict[str, float]:
    """Return each class's mean IoU over the seeds in which it occurred."""
    names = dict.fromkeys(name for row in rows for name in row.per_class_iou)
    values = {name: [row.per_class_iou[name] for row in rows if name in row.per_class_iou] for name in names}
    return {name: sum(ious) / len(ious) for name, ious in values.items()}
