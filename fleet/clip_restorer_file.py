"""The restorer of clips that a scenario names: a file of somebody's training, which a run keeps a copy of.

Not here: making such a file (`training.clip_restorer`), restoring with it (`dataset_restoration`).
"""

from pathlib import Path

from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.plan import Plan
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.stages import write_whole

_KEPT = "dcngan.safetensors"


def clip_restorer_of(scenario: Scenario, run_folder: Path) -> bytes:
    """Return the file of a scenario's restorer of clips, or a run's copy if it is gone; empty without a restorer.

    Raises:
        DataError: if it cannot be read or used, or never learned a codec of clips that is to be restored.
    """
    words = scenario.restoration
    if words is None or words.dcngan is None:
        return b""
    # Only now: torchvision takes a while to load, and few scenarios need it.
    from roadbits.restoration.dcngan_file import open_clip_restorer
    from roadbits.restoration.restoring import RestorerWeightsError

    source, plan = Path(words.dcngan), Plan(scenario)
    kept = run_folder / _KEPT
    try:
        file = (kept if kept.is_file() and not source.exists() else source).read_bytes()
        learned = open_clip_restorer(file).spec.codecs
    except (OSError, RestorerWeightsError) as error:
        raise DataError(
            f"restoration.dcngan: {source}: {error}; make one: roadbits train, a training of kind clip-restorer"
        ) from error
    sent = {arm.source for arm in plan.arms if "dcngan" in plan.restorers_of(arm)}
    if (missing := sorted(sent - set(learned))) and words.untrained_codec == "refuse":
        raise DataError(
            f"restoration.dcngan: {source} learned {', '.join(learned)}, not {', '.join(missing)}: train another, or "
            "set restoration.untrained_codec to warn"
        )
    return file


def keep_clip_restorer(file: bytes, run_folder: Path) -> None:
    """Keep a copy with a run, so that it can go on and be looked at without the original."""
    if file:
        write_whole(run_folder / _KEPT, file)


def kept_clip_restorer(run_folder: Path) -> bytes:
    """Return a run's copy; empty if there is none."""
    kept = run_folder / _KEPT
    return kept.read_bytes() if kept.is_file() else b""
