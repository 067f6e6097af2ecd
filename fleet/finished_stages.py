"""What a finished run's stages hold, for whoever shows or exports it.

Not here: writing stages (`frame_sets`, `server`, `dataset_restoration`).
"""

import json
from pathlib import Path

from roadbits.fleet.archive import Archive, Arrays
from roadbits.fleet.cameras.classes import ClassSet
from roadbits.fleet.clip_restorer_file import kept_clip_restorer
from roadbits.fleet.plan import Plan
from roadbits.fleet.restoration_words import RestorerKind
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.sources import classes_of
from roadbits.fleet.vehicle import Arm
from roadbits.fleet.yaml_file import YamlFileError


class StagesMissing(Exception):
    """A run whose stages are gone or cannot be read; the message says why."""


class StageFolders:
    """The stages of one finished run, only read."""

    def __init__(self, run_folder: Path) -> None:
        """Take a run's folder.

        Raises:
            StagesMissing: if its scenario cannot be read.
        """
        self._stages = run_folder / "stages"
        try:
            self.plan = Plan(load_scenario(run_folder / "scenario.yaml")[0], kept_clip_restorer(run_folder))
        except (YamlFileError, ValueError) as error:
            raise StagesMissing(f"scenario.yaml cannot be read: {error}") from error

    @property
    def classes(self) -> ClassSet:
        """The label set."""
        return classes_of(self.plan.scenario.cameras)

    @property
    def seed(self) -> int:
        """The seed whose predictions are shown."""
        words = self.plan.scenario.downstream
        return words.seeds[0] if words else 0

    def originals(self, split: str) -> Archive:
        """Return a split's originals.

        Raises:
            StagesMissing: if they are gone.
        """
        folder = self._stages / self.plan.originals_key(split)
        if not folder.is_dir():
            raise StagesMissing(f"the stage with the original {split} frames is gone")
        return Archive.open(folder)

    def on_board(self, arm: Arm) -> tuple[Arrays, float] | None:
        """Return the test frames that an arm compressed on board and their bpp; None if there are none."""
        folder = self._stages / self.plan.on_board_key(arm)
        if not folder.is_dir():
            return None
        return Arrays(folder, "images"), json.loads((folder / "rate.json").read_text())

    def delivered(self, arm: Arm) -> tuple[Arrays, list[int]] | None:
        """Return an arm's decoded uploads and their positions among the originals; None if they are gone."""
        folder = self._stages / self.plan.decode_key(arm)
        if not folder.is_dir():
            return None
        return Arrays(folder, "images"), json.loads((folder / "positions.json").read_text())

    def restored_arms(self) -> list[Arm]:
        """Return the arms whose uploads were restored."""
        return [arm for arm in self.plan.arms if self.plan.restorers_of(arm)]

    def restored(self, arm: Arm, kind: RestorerKind) -> Arrays | None:
        """Return an arm's restored uploads, in the order of `delivered`; None if they are gone."""
        folder = self._stages / self.plan.restore_key(arm, kind)
        return Arrays(folder, "images") if folder.is_dir() else None

    def predictions(self, setup: str, arm: Arm, restorer: str | None) -> Arrays | None:
        """Return the first seed's predictions of the shown test frames; None if there are none.

        Args:
            setup: of the segmenter.
            arm: on whose frames it trained or is tested.
            restorer: of its training frames, where the setup restores them.
        """
        chosen = next((each for each in self.plan.setups if each == setup), None)
        if chosen is None:
            return None
        jobs = [job for job in self.plan.jobs_of(chosen, arm, self.seed) if job.training.restorer in (None, restorer)]
        folder = self._stages / self.plan.measure_key(jobs[0]) if jobs else None
        return Arrays(folder, "predictions") if folder and folder.is_dir() else None
