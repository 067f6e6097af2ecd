"""A training in its folder: image caches, checkpoints, validation on real bytes, and the frozen model.

The folder holds `config.yaml` (resolved), `cache/`, `checkpoint.safetensors`, `model.safetensors` (frozen at the last
validation), `log.jsonl` and `curves.html`; the model and log that a training without its checkpoint left there are kept
under names that end in `.before`. A training that was stopped and resumed ends with the same bits as one that was not,
on the same machine with the same number of threads.

Not here: the loop (`codecs.training.rate_distortion`), the measuring (`validation`), the words (`still_config`).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from roadbits.codecs.neural.model_file import ModelFileError
from roadbits.codecs.training.joint_widths import JointWidthsTraining
from roadbits.codecs.training.lambda_schedule import Measured
from roadbits.codecs.training.lambda_schedule_run import run_lambda_schedule
from roadbits.codecs.training.rate_distortion import CheckpointError, Progress, RateDistortionTraining
from roadbits.fleet.interrupts import Interrupts, postponed_interrupts
from roadbits.fleet.progress import Bar, Display
from roadbits.fleet.report.training_curves import write_training_curves
from roadbits.fleet.stages import write_whole
from roadbits.fleet.training.clip import clip_training, remove_other_latents
from roadbits.fleet.training.clip_config import ClipCodecTraining
from roadbits.fleet.training.context import context_training
from roadbits.fleet.training.context_config import ContextTraining
from roadbits.fleet.training.file import CodecTraining, dump_training
from roadbits.fleet.training.folder import own_folder, refuse_started
from roadbits.fleet.training.images import check_sources, open_cache, remove_other_caches
from roadbits.fleet.training.still import still_training
from roadbits.fleet.training.still_config import LambdaScheduleWords, StillCodecTraining
from roadbits.fleet.training.validation import Validation

_NOTE_WIDTH = 56
_ROUNDS = "lambda_schedule.json"


class TrainingRun:
    """One training in one folder."""

    def __init__(self, words: CodecTraining, folder: Path, quiet: bool = False) -> None:
        """Take what to train, where, and whether to show no progress bars."""
        self._words, self._folder = words, folder
        self._log = folder / "log.jsonl"
        self._display = Display(self._log, quiet)
        self._checkpoint, self._model = folder / "checkpoint.safetensors", folder / "model.safetensors"

    def execute(self, resume: bool = False) -> Path:
        """Train to the last step and return the file of the frozen model.

        Raises:
            TrainingFolderError: if the folder holds a training and `resume` is not set, or another process works there.
            ImageFileError: if images are missing or unreadable.
            TrainingDataError: if they are too small, or held out and trained on.
            DataError: if the street cannot be rendered.
            CheckpointError: if the checkpoint is damaged or of another configuration.
            TrainingError: if the training diverges.
            KeyboardInterrupt: on Ctrl-C or SIGTERM; once the first step is done, after a checkpoint.
        """
        refuse_started(self._checkpoint, resume)
        train_on, validate_on = self._words.train_on, self._words.validate_on
        check_sources(train_on, validate_on)
        start = self._words.start_from
        if start and not self._checkpoint.exists() and not Path(start).is_file():
            raise CheckpointError(f"start_from: no checkpoint {start}")
        with own_folder(self._checkpoint, resume):
            caches, logged = self._folder / "cache", self._logged_bytes()
            opened = [open_cache(images, caches, self._display) for images in train_on]
            held_out = [open_cache(images, caches, self._display) for images in validate_on]
            match self._words:
                case ClipCodecTraining():
                    training, validation = clip_training(self._words, opened, held_out, caches, self._display)
                case ContextTraining():
                    training, validation = context_training(self._words, opened, held_out)
                case StillCodecTraining():
                    training, validation = still_training(self._words, opened, held_out)
            if self._checkpoint.exists():
                training.load(self._checkpoint)
            else:
                self._put_aside(logged)
                if self._words.start_from:
                    training.load_weights(Path(self._words.start_from))
            write_whole(self._folder / "config.yaml", dump_training(self._words).encode())
            remove_other_caches(caches, (*train_on, *validate_on))
            if isinstance(self._words, ClipCodecTraining):
                remove_other_latents(caches, self._words)
            self._train(training, validation)
        return self._model

    def _logged_bytes(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _put_aside(self, logged_bytes: int) -> None:
        """Let nothing that a training without its checkpoint left behind pass for this one's.

        Args:
            logged_bytes: by those before this one.
        """
        (self._folder / _ROUNDS).unlink(missing_ok=True)
        if logged_bytes:
            content = self._log.read_bytes()
            with self._log.with_name(f"{self._log.name}.before").open("ab") as before:
                before.write(content[:logged_bytes])
            write_whole(self._log, content[logged_bytes:].lstrip(b"\n"))
        if self._model.exists():
            kept = self._model.with_name(f"{self._model.name}.before")
            self._model.replace(kept)
            self._display.say(f"{self._model} is of a training whose checkpoint is gone: kept as {kept.name}")

    def _train(self, training: RateDistortionTraining, validation: Validation) -> None:
        """Train and validate to the end; an interrupt waits for the end of a step, so that weights are whole."""
        with postponed_interrupts() as interrupts:
            try:
                self._run_steps(training, validation, interrupts)
            except KeyboardInterrupt:
                training.save(self._checkpoint)
                raise

    def _run_steps(self, training: RateDistortionTraining, validation: Validation, interrupts: Interrupts) -> None:
        words = self._words
        with self._display.bar("train", words.steps, _NOTE_WIDTH) as bar:
            bar.set(training.step)
            if isinstance(words, StillCodecTraining) and words.starts_trained and training.step == 0:
                self._validate(0, validation, None, interrupts)  # what all that follows is to be compared with
            steps = partial(self._steps, training, validation, interrupts, bar)
            if isinstance(words, StillCodecTraining) and words.lambda_schedule is not None:
                self._schedule_lambdas(training, validation, interrupts, words.lambda_schedule, steps)
            progress = steps(words.steps)
        training.save(self._checkpoint)
        frozen = self._is_frozen(training.step, validation)
        if not frozen:
            self._validate(training.step, validation, progress, interrupts)
        if progress is not None or not frozen:
            cost = validation.cost_of_exactness(self._model)
            self._display.event("exactness", step=training.step, cost_percent=cost)
            if cost is not None:
                self._display.say(f"exact arithmetic costs {cost:+.2f} % of the bytes at equal PSNR, header left out")

    def _steps(
        self,
        training: RateDistortionTraining,
        validation: Validation,
        interrupts: Interrupts,
        bar: Bar,
        until: int,
    ) -> Progress | None:
        """Train up to a step; return how it stood last."""
        progress: Progress | None = None
        for progress in training.run(until):
            bar.set(progress.step, _note(progress))
            if progress.step % self._words.checkpoint_every == 0:
                training.save(self._checkpoint)
            interrupts.check()
            if progress.step % self._words.validation.every == 0:
                self._validate(training.step, validation, progress, interrupts)
        return progress

    def _schedule_lambdas(
        self,
        training: RateDistortionTraining,
        validation: Validation,
        interrupts: Interrupts,
        rules: LambdaScheduleWords,
        steps: Callable[[int], Progress | None],
    ) -> None:
        """Find a lambda for each width, and train towards them from then on."""
        assert isinstance(training, JointWidthsTraining)

        def train_on(lambdas: tuple[float, ...], until: int) -> None:
            training.set_lambdas(lambdas)
            if training.step < until:
                steps(until)
                training.save(self._checkpoint)

        def evaluate() -> list[Measured]:
            points = validation.measure(validation.frozen(training.step), interrupts.check)
            lambdas = ", ".join(f"{lmbda:.4g}" for (lmbda,) in training.lambdas)
            curve = "  ".join(f"{point.bpp:.3f}/{point.psnr_db:.2f}" for point in points)
            self._display.say(f"step {training.step}: lambdas {lambdas}: bpp/dB {curve}")
            return [Measured(point.bpp, point.psnr_db) for point in points]

        ((start, *_), *_) = training.lambdas
        schedule = rules.schedule(start, len(training.lambdas))
        rounds = run_lambda_schedule(schedule, train_on, evaluate, self._folder / _ROUNDS)
        training.set_lambdas(schedule.after(rounds[-1]).lambdas)
        self._display.event("lambdas", step=training.step, lambdas=[lmbda for (lmbda,) in training.lambdas])

    def _is_frozen(self, step: int, validation: Validation) -> bool:
        """Return whether the model was frozen at a step, which is the last thing a validation does."""
        try:
            return validation.steps_of(self._model) == step
        except ModelFileError:
            return False

    def _validate(self, step: int, validation: Validation, progress: Progress | None, interrupts: Interrupts) -> None:
        """Measure, log, draw and write the model; without progress, as after an interrupt, there is no loss to log."""
        self._display.say(f"step {step}: measuring {len(validation.held_out)} {validation.noun}")
        model = validation.frozen(step)
        points = validation.measure(model, interrupts.check)
        self._display.event(
            "validation",
            step=step,
            loss=progress and progress.loss,
            bpp_estimate=progress and progress.bpp_estimate,
            psnr_db=progress and progress.psnr_db,
            points=[
                {"point": point.point, "bpp": point.bpp, "psnr_db": point.psnr_db, "ms_ssim": point.ms_ssim}
                for point in points
            ],
        )
        curve = "  ".join(f"{point.bpp:.3f}/{point.psnr_db:.2f}" for point in points)
        self._display.say(f"step {step}: bpp/dB {curve}")
        write_training_curves(self._log, self._folder / "curves.html", self._words.name)
        model.save(self._model)


def _note(progress: Progress) -> str:
    """Return what stands behind the bar."""
    return (
        f"loss {progress.loss:.3f}  {progress.bpp_estimate:.3f} bpp  {_decibels(progress.psnr_db)}"
        f"{progress.steps_per_s:.2f} steps/s"
    )


def _decibels(psnr_db: float | None) -> str:
    return "" if psnr_db is None else f"{psnr_db:.2f} dB  "
