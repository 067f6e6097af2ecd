"""The command line: `roadbits run | check | report | export | bench`, and the commands about codecs.

Exit codes: 0 done, 2 wrong use or a bad scenario, 3 the run failed or lost its quorum, 130 interrupted. Results go to
stdout, bars and messages to stderr.

Not here: those (`codec_commands`); any work: heavy imports wait until a command needs them.
"""

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from roadbits.fleet.codec_commands import codecs, decode, encode, rd, train
from roadbits.fleet.commands import FAILED, INTERRUPTED, WRONG_USE, exit_codes, fail, settings_option
from roadbits.fleet.ray_environment import loopback_works, prepare_ray

if TYPE_CHECKING:
    from roadbits.fleet.backend import Backend
    from roadbits.fleet.results import Results
    from roadbits.fleet.scenario import Scenario

_SHOWN_ADAPTERS = 8


def main() -> None:
    """Run the command line; a polite request to end counts as Ctrl-C."""
    interrupted = threading.Event()

    def interrupt(*_: object) -> NoReturn:
        interrupted.set()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        cli(prog_name="roadbits")
    except (Exception, SystemExit) as error:
        # A C module may turn the interrupt into an error of its own.
        if not interrupted.is_set() or (isinstance(error, SystemExit) and error.code == INTERRUPTED):
            raise
        fail("interrupted; a run goes on with --resume", INTERRUPTED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="roadbits")
def cli() -> None:
    """How much mIoU does a bit from the road buy?"""


for _command in (encode, decode, rd, codecs, train):
    cli.add_command(_command)


@cli.command()
@click.argument("scenario")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The run's folder. Default: runs/NAME.")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder; redo only what is missing.")
@click.option(
    "--backend", type=click.Choice(["ray", "local"]), help="Default: ray, or local without a loopback network."
)
@click.option("--address", help="Join this Ray cluster instead of starting one, for example auto or 10.0.0.1:6379.")
@click.option("--workers", type=click.IntRange(min=1), help="Ray workers. Default: one per processor.")
@click.option(
    "--reuse",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Take what is the same from this run's folder: frames, decoded uploads, trained networks, measurements.",
)
@settings_option("a scenario's key")
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@exit_codes
def run(
    scenario: str,
    out: Path | None,
    resume: bool,
    backend: str | None,
    address: str | None,
    workers: int | None,
    reuse: tuple[Path, ...],
    settings: tuple[str, ...],
    quiet: bool,
) -> None:
    """Run SCENARIO: the name of a shipped one, or a YAML file.

    A sweep runs its variants one after the other; what they have in common is done once.
    """
    if backend == "local" and (address or workers):
        raise click.UsageError("--address and --workers are Ray's, which --backend local does without")
    for other in reuse:
        if not (other / "scenario.yaml").is_file():
            raise click.UsageError(f"--reuse {other}: expected the folder of a run, but it holds no scenario.yaml")

    from roadbits.fleet.run import Run, RunError
    from roadbits.fleet.scenario_file import load_scenario, scenario_path

    scenarios = load_scenario(scenario_path(scenario), settings)
    sweep = len(scenarios) > 1
    top = out or Path("runs") / (f"{scenario_path(scenario).stem}-sweep" if sweep else scenarios[0].name)
    if sweep and (top / "results.json").exists():
        raise RunError(f"{top} holds a run, whose page a sweep's would replace: choose another --out")
    folders = [top / each.name if sweep else top for each in scenarios]
    opened: list[Backend] = []

    def backend_for_all() -> "Backend":
        opened.extend([] if opened else [_backend(backend, address, workers)])
        return opened[0]

    without_quorum = []
    try:
        for each, folder in zip(scenarios, folders, strict=True):
            others = [*(other for other in folders if other != folder), *reuse]
            results = Run(each, folder, backend_for_all, quiet, others).execute(resume)
            _show(results, folder)
            _tell_adapters(each, folder)
            without_quorum += [each.name] if results.lost_quorum else []
    except OSError as error:
        fail(f"{error}; what was stored is safe: mend it and add --resume", FAILED)
    except KeyboardInterrupt:
        fail("interrupted; add --resume to go on", INTERRUPTED)
    finally:
        for backend_opened in opened:
            backend_opened.close()
    if sweep:
        _write_report(folders, top / "report.html")
    if without_quorum:
        told = "no federated round had its quorum, so none gave an adapter; results and page are written all the same"
        fail(f"{', '.join(without_quorum)}: {told}", FAILED)


def _backend(name: str | None, address: str | None, workers: int | None) -> "Backend":
    from roadbits.fleet.backend import BackendError, LocalBackend

    if name is None and address is None and not loopback_works():
        click.echo(
            "roadbits: no loopback network, which Ray needs: running in this process, to the same results", err=True
        )
        name = "local"
    if name == "local":
        return LocalBackend()
    if address is None and not loopback_works():
        raise BackendError(
            "Ray cannot be started without a loopback network (127.0.0.1); --backend local works without"
        )
    prepare_ray(start_own=address is None)
    from roadbits.fleet.actors import RayBackend

    return RayBackend(workers, address)


def _show(results: "Results", folder: Path) -> None:
    from rich.console import Console

    from roadbits.fleet.report.terminal import print_results

    print_results(results, Console(width=None if sys.stdout.isatty() else 140))
    _write_report([folder], folder / "report.html")


def _tell_adapters(scenario: "Scenario", folder: Path) -> None:
    """Say where to find what vehicles learned, and how to use it."""
    if scenario.adaptation is None:
        return
    from roadbits.codecs.image import natural_order
    from roadbits.fleet.adapter_files import FOLDER

    found = sorted((folder / FOLDER).glob("*.safetensors"), key=lambda path: natural_order(path.name))
    if not found:
        return
    for path in found[:_SHOWN_ADAPTERS]:
        click.echo(f"{path}")
    if len(found) > _SHOWN_ADAPTERS:
        click.echo(f"and {len(found) - _SHOWN_ADAPTERS} adapters more beside them")
    codec = scenario.adaptation.codec
    click.echo(f"adapters on {codec}; to measure one: roadbits rd --images DIR --codec {codec},{codec}+FILE")


def _write_report(folders: list[Path], page: Path) -> None:
    from roadbits.fleet.report.page import write_report

    write_report(folders, page)
    click.echo(f"{page}")


@cli.command()
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@settings_option("a scenario's key")
@exit_codes
def check(scenarios: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Validate scenarios, print what would run, and what it costs in frames and bytes."""
    from roadbits.fleet.cameras.frame import DataError
    from roadbits.fleet.clip_restorer_file import clip_restorer_of
    from roadbits.fleet.feasibility import DeviceError
    from roadbits.fleet.forecast import forecast
    from roadbits.fleet.plan import Plan
    from roadbits.fleet.run import RunError
    from roadbits.fleet.scenario_file import load_scenario, scenario_path
    from roadbits.fleet.uplink import UplinkError
    from roadbits.fleet.yaml_file import YamlFileError

    faults = []
    for name in scenarios:
        try:
            for scenario in load_scenario(scenario_path(name), settings):
                clip_restorer_of(scenario, Path())
                lines = [*Plan(scenario).describe(), *forecast(scenario)]
                _check_network(scenario)
                click.echo(f"{scenario.name}: {scenario.question or 'no question given'}")
                for line in lines:
                    click.echo(f"  {line}")
        except (YamlFileError, FileNotFoundError, RunError, DataError, DeviceError, UplinkError) as error:
            faults.append(str(error))
    if faults:
        fail("\n".join(faults), WRONG_USE)


def _check_network(scenario: "Scenario") -> None:
    """Refuse a segmenter that cannot be built, which a run would find out only after its collection."""
    if scenario.downstream is None:
        return
    from roadbits.downstream.segmenter import Segmenter
    from roadbits.fleet.learning import network_of
    from roadbits.fleet.run import RunError

    try:
        Segmenter(network_of(scenario.downstream, scenario.downstream.pretrained), num_classes=2)
    except ValueError as error:
        raise RunError(f"{scenario.name}: downstream: {error}") from error


@cli.command()
@click.argument("run_folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR...")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: report.html in the first folder."
)
@exit_codes
def report(run_folders: tuple[Path, ...], out: Path | None) -> None:
    """Write one self-contained HTML page of one run, or of several compared."""
    _write_report(list(run_folders), out or run_folders[0] / "report.html")


@cli.command()
@click.argument("run_folder", type=click.Path(path_type=Path, file_okay=False), metavar="RUN_DIR")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--setup", required=True, type=click.Choice(["OO", "CO", "RO", "CC", "OC", "RC"]), help="Train x test.")
@click.option("--codec", "codec_name", help="Needed where the run has several.")
@click.option("--point", help="Its operating point or policy, as the results name it.")
@click.option("--restorer", help="Needed where the run has several.")
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
@exit_codes
def export(
    run_folder: Path,
    out: Path,
    setup: str,
    codec_name: str | None,
    point: str | None,
    restorer: str | None,
    quiet: bool,
) -> None:
    """Write a setup's frames and labels to DIR as a data set in the layout of CamVid or Cityscapes."""
    if (codec_name is None) != (point is None):
        raise click.UsageError("give --codec and --point together, or neither")

    from roadbits.downstream.setups import Setup
    from roadbits.fleet.export import Choice
    from roadbits.fleet.export import export as write_frames
    from roadbits.fleet.progress import Display
    from roadbits.fleet.results import read_results
    from roadbits.fleet.vehicle import Arm

    arm = Arm(codec_name, point) if codec_name and point else None
    results = read_results(run_folder)
    with Display(quiet=quiet).bar("export", 1) as bar:
        count = write_frames(run_folder, results, Choice(Setup(setup), arm, restorer), out, bar.set_of)
    click.echo(f"{out}: {count} frames of {setup}")


@cli.command()
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Ray workers.")
@exit_codes
def bench(workers: int) -> None:
    """Measure deliveries, frames per second and cold starts on this machine; a minute or two."""
    from roadbits.fleet.bench import bench as figures
    from roadbits.fleet.scenario_file import load_scenario, scenario_path

    file = scenario_path("bench")
    (scenario,) = load_scenario(file)
    ray = _backend("ray", None, workers)
    try:
        for figure in figures(scenario, file, ray, workers):
            click.echo(f"{figure.name:<48} {figure.value:>14,.2f} {figure.unit}")
    finally:
        ray.close()
