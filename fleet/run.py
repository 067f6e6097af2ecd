"""A run: collect, decode, train, measure, report, in the order of a frame's journey.

Not here: the collection (`collection`), its frames (`frame_sets`), what the server learns from them (`server`) and what
all of it came to (`run_results`).
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from roadbits.fleet.backend import Backend
from roadbits.fleet.clip_restorer_file import clip_restorer_of, keep_clip_restorer
from roadbits.fleet.collection import collect, drive_lengths, is_collected
from roadbits.fleet.domains import check_measured
from roadbits.fleet.feasibility import check_devices
from roadbits.fleet.plan import Plan
from roadbits.fleet.program import is_of_another, sign
from roadbits.fleet.progress import Display
from roadbits.fleet.results import AdaptationResults, Results
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import dump_scenario
from roadbits.fleet.sources import check_disjoint, check_references
from roadbits.fleet.stages import Stages, write_whole
from roadbits.fleet.store import Store

if TYPE_CHECKING:
    from roadbits.fleet.codec_adaptation import CodecAdaptation
    from roadbits.fleet.fittings import Fittings


_UPLOADS, _RESULTS, _LOCK = "uploads.sqlite", "results.json", ".lock"


class RunError(Exception):
    """A run that cannot begin; the message says what to do."""


class Run:
    """One scenario in one folder."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        backend: Callable[[], Backend],
        quiet: bool = False,
        reused: Sequence[Path] = (),
    ) -> None:
        """Take what to run and where.

        Args:
            scenario: to run.
            folder: of the run.
            backend: gives a backend, which stays open.
            quiet: show no progress bars.
            reused: folders of other runs, whose finished stages are taken where this one has the same.
        """
        self._plan = Plan(scenario)
        self._folder = folder
        self._open_backend = backend
        self._quiet = quiet
        self._reused = tuple(reused)
        self._timings_s: dict[str, float] = {}

    def execute(self, resume: bool = False) -> Results:
        """Do everything that is missing, write `results.json` and return it; adapters become files of their own.

        Raises:
            RunError: if the folder holds a run and `resume` is not set, or something else than a run, or another
                process works in it.
            OtherCollectionError: if it holds the uploads of another scenario.
            DataError: if the data cannot be read as declared, or holds less than restorers are to learn from.
            DeviceError: if a device cannot run a codec.
            StoreError: if the store cannot be written.
            BackendError: if the backend cannot work.
        """
        check_disjoint(self._plan.scenario.cameras)
        check_devices(self._plan.scenario)
        self._refuse_finished(resume)
        is_begun = self._folder.is_dir()
        # All three name missing data before anything is written.
        lengths = drive_lengths(self._plan.scenario)
        check_references(self._plan.scenario.cameras, self._plan.scenario.seed, self._plan.scenario.restoration)
        check_measured(self._plan.scenario)
        clip_restorer = clip_restorer_of(self._plan.scenario, self._folder)
        self._plan = Plan(self._plan.scenario, clip_restorer)
        with self._timed("start"):
            backend = self._open_backend()
        with self._folder_of_our_own(resume), Store(self._folder / _UPLOADS) as store:
            collected = is_collected(self._plan, store)
            if not (self._folder / _RESULTS).exists():
                self._keep_plan()
            display = Display(self._folder / "log.jsonl", self._quiet)
            if resume and not is_begun:
                display.say(f"there is no {self._folder} to resume: this run begins anew")
            self._tell_programs(display)
            stages = Stages(self._folder / "stages", [other / "stages" for other in self._reused])
            adaptation, fittings = self._adapt(stages, backend, display)
            if not collected:
                with self._timed("collect"):
                    collect(self._plan, lengths, store, backend, display, fittings)
            results = self._serve(stages, store, backend, display, adaptation)
            self._keep_plan()
            self._keep_adapters(adaptation)
            write_whole(self._folder / _RESULTS, results.to_json().encode())
            for other, count in stages.taken.items():
                display.say(f"{count} stages were finished in {other.parent} already")
        return results

    def _keep_plan(self) -> None:
        """Write what is run beside what comes of it; results of an earlier plan keep theirs until then."""
        write_whole(self._folder / "scenario.yaml", dump_scenario(self._plan.scenario).encode())
        keep_clip_restorer(self._plan.clip_restorer, self._folder)

    def _keep_adapters(self, adaptation: "CodecAdaptation | None") -> None:
        """Write what vehicles learned where it can be taken from, as files that codecs take."""
        if adaptation is None or self._plan.scenario.adaptation is None:
            return
        from roadbits.fleet.adapter_files import FOLDER, write_adapters

        write_adapters(self._plan.scenario.adaptation, adaptation.exchanges, self._folder / FOLDER)

    def _tell_programs(self, display: Display) -> None:
        """Say which folders hold what another version of the program computed, and sign this one with all."""
        begun = [folder for folder in (self._folder, *self._reused) if (folder / "stages").exists()]
        for folder in begun:
            if is_of_another(folder):
                display.say(
                    f"{folder} holds what another version of roadbits computed: that is taken as it is, and this "
                    "version might compute something else; to be sure, begin anew"
                )
        sign(self._folder, begun)

    def _refuse_finished(self, resume: bool) -> None:
        is_run = (self._folder / _UPLOADS).exists()
        if is_run and not resume:
            raise RunError(f"{self._folder} holds a run already: add --resume to continue it, or choose another --out")
        others = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        if not is_run and set(others) - {_LOCK}:
            raise RunError(
                f"{self._folder} holds {min(others)} and no run: choose another --out, so that nothing there is lost"
            )

    def _adapt(self, stages: Stages, backend: Backend, display: Display) -> tuple["CodecAdaptation | None", "Fittings"]:
        """Return the adaptation, and what vehicles have on board for it."""
        if self._plan.scenario.adaptation is None:
            return None, {}
        # Only now: Flower takes half a second to load.
        from roadbits.fleet.codec_adaptation import CodecAdaptation

        with self._timed("adapt"):
            adaptation = CodecAdaptation(self._plan, stages, backend, display)
            return adaptation, adaptation.prepare()

    def _serve(
        self,
        stages: Stages,
        store: Store,
        backend: Backend,
        display: Display,
        adaptation: "CodecAdaptation | None",
    ) -> Results:
        # Only now: torch takes seconds to load, and uploads should not wait for it.
        from roadbits.fleet.frame_sets import FrameSets
        from roadbits.fleet.run_results import RunResults
        from roadbits.fleet.server import Server

        frames = FrameSets(self._plan, stages, store, backend, display, adaptation)
        server = Server(self._plan, stages, frames, backend, display)
        with self._timed("decode"):
            frames.write_originals()
            if adaptation or server.restoration or self._plan.scenario.downstream:
                frames.check_apart()
            frames.decode()
            if server.restoration:
                server.restoration.prepare()
        adapted = AdaptationResults([], [], [], [])
        if adaptation:
            from roadbits.fleet.adaptation_comparison import AdaptationComparison

            with self._timed("compare adaptations"):
                comparison = AdaptationComparison(self._plan, stages, backend, display, adaptation)
                adapted = comparison.compared(frames.originals("test"), frames.references())
        if self._plan.scenario.downstream:
            frames.check_labels()
        if server.restoration:
            with self._timed("restore"):
                server.restore()
        if self._plan.scenario.downstream:
            with self._timed("train"):
                frames.compress_test_frames()
                server.train()
            with self._timed("measure"):
                server.measure()
        return RunResults(self._plan, store, frames, server, display, adaptation).gathered(adapted, self._timings_s)

    @contextmanager
    def _folder_of_our_own(self, resume: bool) -> Iterator[None]:
        """Lock the run's folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"another process is working in {self._folder}: wait for it, or end it") from None
            self._refuse_finished(resume)
            yield

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._timings_s[name] = round(time.monotonic() - begin, 3)
