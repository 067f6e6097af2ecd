"""The command line: `roadbits run | check | report | encode | decode | rd | train | codecs | bench`.

Exit codes: 0 done, 2 wrong use or a bad scenario, 3 the run failed, 130 interrupted. Results go to stdout, bars and
messages to stderr.

Not here: any work; heavy imports wait until a command needs them.
"""

import functools
import itertools
import json
import math
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from roadbits.codecs.bitstream import BitstreamError
from roadbits.fleet.backend import Backend, BackendError, LocalBackend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.collection import OtherCollectionError
from roadbits.fleet.feasibility import DeviceError
from roadbits.fleet.ray_environment import loopback_works, prepare_ray
from roadbits.fleet.results import Results, ResultsError
from roadbits.fleet.run import Run, RunError
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario, scenario_path
from roadbits.fleet.store import StoreError
from roadbits.fleet.uplink import UplinkError
from roadbits.fleet.yaml_file import YamlFileError

_WRONG_USE, _FAILED, _INTERRUPTED = 2, 3, 130
_TIMED_IMAGES, _TIMED_CLIPS = 4, 2
_CLIP_FRAMES = 32


def _fail(message: object, code: int) -> NoReturn:
    click.echo(f"roadbits: {message}", err=True)
    raise SystemExit(code)


def _settings(of_what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that overrides keys of a file."""
    told = f"Override {of_what}. Repeatable."
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=told)


def _exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the program's errors into one clear message and the promised exit code."""
    from roadbits.codecs.image import ImageFileError
    from roadbits.codecs.integer import InexactArithmeticError
    from roadbits.codecs.legacy.passthrough import VideoFileError
    from roadbits.fleet.export import ExportError
    from roadbits.fleet.finished_stages import StagesMissing

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (
            YamlFileError,
            RunError,
            ResultsError,
            ImageFileError,
            VideoFileError,
            UplinkError,
            DataError,
            DeviceError,
            OtherCollectionError,
            ExportError,
            StagesMissing,
        ) as error:
            _fail(error, _WRONG_USE)
        except (StoreError, BackendError, BitstreamError, InexactArithmeticError) as error:
            _fail(error, _FAILED)
        except OSError as error:
            _fail(error, _WRONG_USE if isinstance(error, FileNotFoundError | IsADirectoryError) else _FAILED)
        except KeyboardInterrupt:
            _fail("interrupted", _INTERRUPTED)

    return wrapped


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
        if not interrupted.is_set() or (isinstance(error, SystemExit) and error.code == _INTERRUPTED):
            raise
        _fail("interrupted; a run goes on with --resume", _INTERRUPTED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="roadbits")
def cli() -> None:
    """How much mIoU does a bit from the road buy?"""


@cli.command()
@click.argument("scenario")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The run's folder. Default: runs/NAME.")
@click.option("--resume", is_flag=True, help="Go on with the run in that folder; redo only what is missing.")
@click.option(
    "--backend", type=click.Choice(["ray", "local"]), help="Default: ray, or local without a loopback network."
)
@click.option("--address", help="Join this Ray cluster instead of starting one, for example auto or 10.0.0.1:6379.")
@click.option("--workers", type=click.IntRange(min=1), help="Ray workers. Default: one per processor.")
@_settings("a scenario's key")
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@_exit_codes
def run(
    scenario: str,
    out: Path | None,
    resume: bool,
    backend: str | None,
    address: str | None,
    workers: int | None,
    settings: tuple[str, ...],
    quiet: bool,
) -> None:
    """Run SCENARIO: the name of a shipped one, or a YAML file. A sweep runs its variants one after the other."""
    if backend == "local" and (address or workers):
        raise click.UsageError("--address and --workers are Ray's, which --backend local does without")
    scenarios = load_scenario(scenario_path(scenario), settings)
    sweep = len(scenarios) > 1
    top = out or Path("runs") / (scenario_path(scenario).stem if sweep else scenarios[0].name)
    folders = [top / each.name if sweep else top for each in scenarios]
    opened: list[Backend] = []

    def backend_for_all() -> Backend:
        opened.extend([] if opened else [_backend(backend, address, workers)])
        return opened[0]

    try:
        for each, folder in zip(scenarios, folders, strict=True):
            _show(Run(each, folder, backend_for_all, quiet).execute(resume), folder)
    except OSError as error:
        _fail(f"{error}; what was stored is safe: mend it and add --resume", _FAILED)
    except KeyboardInterrupt:
        _fail("interrupted; add --resume to go on", _INTERRUPTED)
    finally:
        for backend_opened in opened:
            backend_opened.close()
    if sweep:
        _write_report(folders, top / "report.html")


def _backend(name: str | None, address: str | None, workers: int | None) -> Backend:
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


def _show(results: Results, folder: Path) -> None:
    from rich.console import Console

    from roadbits.fleet.report.terminal import print_results

    print_results(results, Console(width=None if sys.stdout.isatty() else 140))
    _write_report([folder], folder / "report.html")


def _write_report(folders: list[Path], page: Path) -> None:
    from roadbits.fleet.report.page import write_report

    write_report(folders, page)
    click.echo(f"{page}")


@cli.command()
@click.argument("scenarios", nargs=-1, required=True, metavar="SCENARIO...")
@_settings("a scenario's key")
@_exit_codes
def check(scenarios: tuple[str, ...], settings: tuple[str, ...]) -> None:
    """Validate scenarios, print what would run, and what it costs in frames and bytes."""
    from roadbits.fleet.forecast import forecast
    from roadbits.fleet.plan import Plan

    faults = []
    for name in scenarios:
        try:
            for scenario in load_scenario(scenario_path(name), settings):
                lines = [*Plan(scenario).describe(), *forecast(scenario)]
                _check_network(scenario)
                click.echo(f"{scenario.name}: {scenario.question or 'no question given'}")
                for line in lines:
                    click.echo(f"  {line}")
        except (YamlFileError, FileNotFoundError, RunError, DataError, DeviceError, UplinkError) as error:
            faults.append(str(error))
    if faults:
        _fail("\n".join(faults), _WRONG_USE)


def _check_network(scenario: Scenario) -> None:
    """Refuse a segmenter that cannot be built, which a run would find out only after its collection."""
    if scenario.downstream is None:
        return
    from roadbits.downstream.segmenter import Segmenter
    from roadbits.fleet.learning import network_of

    try:
        Segmenter(network_of(scenario.downstream, scenario.downstream.pretrained), num_classes=2)
    except ValueError as error:
        raise RunError(f"{scenario.name}: downstream: {error}") from error


@cli.command()
@click.argument("run_folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_DIR...")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Default: report.html in the first folder."
)
@_exit_codes
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
@_exit_codes
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
    from roadbits.downstream.setups import Setup
    from roadbits.fleet.export import Choice
    from roadbits.fleet.export import export as write_frames
    from roadbits.fleet.progress import Display
    from roadbits.fleet.results import read_results
    from roadbits.fleet.vehicle import Arm

    if (codec_name is None) != (point is None):
        raise click.UsageError("give --codec and --point together, or neither")
    arm = Arm(codec_name, point) if codec_name and point else None
    results = read_results(run_folder)
    with Display(quiet=quiet).bar("export", 1) as bar:
        count = write_frames(run_folder, results, Choice(Setup(setup), arm, restorer), out, bar.set_of)
    click.echo(f"{out}: {count} frames of {setup}")


@cli.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="IMAGE")
@click.argument("payload", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--codec", "codec_name", required=True, help="See `roadbits codecs`.")
@click.option("--point", help="An operating point, for example quality=30. Default: the middle of the ladder.")
@click.option("--bpp", "target_bpp", type=float, help="Search for the point nearest to this rate instead.")
@_exit_codes
def encode(source: Path, payload: Path, codec_name: str, point: str | None, target_bpp: float | None) -> None:
    """Compress IMAGE into PAYLOAD; for a codec of clips, IMAGE is the folder of a clip's frames.

    With codec `passthrough`, IMAGE is a camera's video file, whose own H.264 or HEVC stream becomes the payload.
    """
    from roadbits.codecs.bitstream import unpack
    from roadbits.codecs.catalogue import still_or_clip_codec_named
    from roadbits.codecs.codec import Clip, ClipCodec, Codec, Image, OperatingPoint, is_clip_codec
    from roadbits.codecs.image import list_images, one_clip, read_clip, read_image
    from roadbits.codecs.legacy import passthrough
    from roadbits.codecs.target_rate import Encoded, encode_at

    if point is not None and target_bpp is not None:
        raise click.UsageError("give --point or --bpp, not both")
    if codec_name == passthrough.NAME:
        if point is not None or target_bpp is not None:
            raise click.UsageError("passthrough encodes nothing: leave --point and --bpp out")
        content = passthrough.passed_through(source)
        container = unpack(content)
        payload.write_bytes(content)
        rate = 8 * len(content) / (container.point[0] * container.height * container.width)
        click.echo(f"{codec_name}: {container.point[0]} frames, {len(content)} bytes, {rate:.4f} bpp")
        return
    try:
        codec: Codec | ClipCodec = still_or_clip_codec_named(codec_name)
        pixels: Image | Clip
        pixels = read_clip(one_clip(list_images(source))) if is_clip_codec(codec) else read_image(source)
        if target_bpp is not None:
            encoded = encode_at(codec, pixels, target_bpp)
        else:
            chosen = OperatingPoint.parse(point) if point else codec.points[len(codec.points) // 2]
            encoded = Encoded(codec.encode(pixels, chosen), chosen)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    payload.write_bytes(encoded.payload)
    rate = 8 * len(encoded.payload) / math.prod(pixels.shape[:-1])
    click.echo(f"{codec.name} {encoded.point}: {len(encoded.payload)} bytes, {rate:.4f} bpp")


@cli.command()
@click.argument("payload", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path), metavar="IMAGE")
@click.option("--codec", "codec_name", help="Only for weights or an adapter of your own: NAME:FILE, NAME+FILE.")
@_exit_codes
def decode(payload: Path, target: Path, codec_name: str | None) -> None:
    """Decompress PAYLOAD into IMAGE, a lossless format; a clip into PNG files in a folder IMAGE."""
    from roadbits.codecs import catalogue
    from roadbits.codecs.bitstream import MAX_BODY_BYTES
    from roadbits.codecs.codec import is_clip_codec, is_still_codec
    from roadbits.codecs.image import write_clip, write_image

    if payload.stat().st_size > 2 * MAX_BODY_BYTES:
        raise BitstreamError(f"{payload}: {payload.stat().st_size} bytes, no payload is larger than {MAX_BODY_BYTES}")
    try:
        named = [catalogue.still_or_clip_codec_named(codec_name)] if codec_name else []
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    content = payload.read_bytes()
    try:
        if catalogue.is_clip(content):
            clip = catalogue.decode_clip(content, [codec for codec in named if is_clip_codec(codec)])
            write_clip(target, clip)
            frames, height, width, _ = clip.shape
            click.echo(f"{height} x {width} pixels, {frames} frames")
        else:
            image = catalogue.decode(content, [codec for codec in named if is_still_codec(codec)])
            write_image(target, image)
            click.echo(f"{image.shape[0]} x {image.shape[1]} pixels")
    except BitstreamError as error:
        raise BitstreamError(f"{payload}: {error}") from error


@cli.command()
@click.option("--images", type=click.Path(path_type=Path), help="A folder of images.")
@click.option("--clips", type=click.Path(path_type=Path), help="A folder of frames, cut into clips.")
@click.option("--clip-frames", type=click.IntRange(min=1), help="Frames of a clip.  [default: 32]")
@click.option("--codec", "names", required=True, help="Codecs, separated by commas.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the numbers here.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curves here.")
@click.option("--max-images", type=click.IntRange(min=1), help="Measure on that many images, or clips, evenly spaced.")
@click.option("--perceptual", is_flag=True, help="Also how differently ImageNet's EfficientNet-Lite0 sees them.")
@click.option("--timing", is_flag=True, help="Also time the middle point of each codec on 1 and 2 threads.")
@click.option("--bpp-range", type=(float, float), help="Take BD-rates between these two rates only, as in 0.1 0.8.")
@_exit_codes
def rd(
    images: Path | None,
    clips: Path | None,
    clip_frames: int | None,
    names: str,
    json_file: Path | None,
    page: Path | None,
    max_images: int | None,
    perceptual: bool,
    timing: bool,
    bpp_range: tuple[float, float] | None,
) -> None:
    """Measure rate and distortion on real bytes, and BD-rates."""
    from rich.console import Console

    from roadbits.codecs.catalogue import still_or_clip_codec_named
    from roadbits.codecs.codec import is_clip_codec
    from roadbits.codecs.image import ImageFileError, clips_of, list_images, read_clip, read_image
    from roadbits.codecs.rate_distortion import Distance, bd_rates, measure_all
    from roadbits.codecs.timing import time_codec
    from roadbits.fleet.progress import Display
    from roadbits.fleet.report.rd_curves import write_rd_curves
    from roadbits.fleet.report.rd_table import print_rd, print_timings, rd_json

    folder = images or clips
    if folder is None or (images and clips):
        raise click.UsageError("give --images or --clips, one of them")
    try:
        codecs = [still_or_clip_codec_named(name.strip()) for name in names.split(",")]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if images and any(map(is_clip_codec, codecs)):
        raise click.UsageError(
            f"{', '.join(c.name for c in codecs if is_clip_codec(c))}: codecs of clips, give --clips"
        )
    if images and clip_frames:
        raise click.UsageError("--clip-frames cuts --clips, not --images")
    if bpp_range and not 0 < bpp_range[0] < bpp_range[1] < math.inf:
        raise click.UsageError(f"--bpp-range must be two rising rates above 0, got {bpp_range[0]} {bpp_range[1]}")
    for option, file in (("--json", json_file), ("--html", page)):
        if file and not file.parent.is_dir():
            raise click.UsageError(f"{option} {file}: no folder {file.parent}")
    files = list_images(folder)
    parts = clips_of(files, clip_frames or _CLIP_FRAMES) if clips else [[file] for file in files]
    if max_images and len(parts) > max_images:
        parts = [parts[k * len(parts) // max_images] for k in range(max_images)]
    distance: Distance | None = None
    if perceptual:
        from roadbits.fleet.restoring import seen_distance

        distance = seen_distance
    try:
        with Display().bar("measure", sum(len(codec.points) for codec in codecs)) as bar:
            read = read_clip if clips else lambda files: read_image(*files)
            points = measure_all(codecs, lambda: map(read, parts), lambda _: bar.advance(), distance)
        stills = [read_image(file) for file in list(itertools.chain(*parts))[:_TIMED_IMAGES]] if timing else []
        timed_clips = [read_clip(part) for part in parts[:_TIMED_CLIPS]] if timing and clips else []
        timings = [
            time_codec(
                codec, codec.points[len(codec.points) // 2], timed_clips if is_clip_codec(codec) else stills, threads
            )
            for codec in (codecs if timing else ())
            for threads in ((1, 2) if codec.model_hash else (1,))
        ]
    except ValueError as error:
        raise ImageFileError(f"{folder}: a codec cannot take one of the images: {error}") from error
    rates = bd_rates(points, bpp_range)
    console = Console(width=None if sys.stdout.isatty() else 120)
    print_rd(points, rates, console, bpp_range)
    if timing:
        print_timings(timings, console)
    if json_file:
        json_file.write_text(json.dumps(rd_json(points, rates, timings), indent=1) + "\n")
    if page:
        write_rd_curves(points, page)


@cli.command()
def codecs() -> None:
    """List the codecs, their operating points, and what neural ones cost and weigh."""
    from rich.console import Console

    from roadbits.codecs.catalogue import clip_codecs, still_codecs
    from roadbits.fleet.report.codec_table import print_codecs

    print_codecs(still_codecs(), Console(width=None if sys.stdout.isatty() else 160))
    names = ", ".join(codec.name for codec in clip_codecs())
    click.echo(f"of clips, for rd --clips, encode and decode: {names}; passthrough of a camera's own")


@cli.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: trainings/NAME.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in that folder.")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch; other numbers may round differently.")
@_settings("a key of CONFIG, paths counting from its folder")
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@_exit_codes
def train(
    config: Path, out: Path | None, resume: bool, threads: int | None, settings: tuple[str, ...], quiet: bool
) -> None:
    """Train what CONFIG, a YAML file, describes: a codec, or a restorer of clips; weights land in model.safetensors."""
    import torch

    from roadbits.codecs.training.crops import TrainingDataError
    from roadbits.codecs.training.rate_distortion import CheckpointError, TrainingError
    from roadbits.downstream.pretrained import PretrainedWeightsError
    from roadbits.fleet.clip_restorer_config import ClipRestorerTrainingWords
    from roadbits.fleet.clip_restorer_run import ClipRestorerRun
    from roadbits.fleet.training_file import load_training
    from roadbits.fleet.training_folder import TrainingFolderError
    from roadbits.fleet.training_run import TrainingRun
    from roadbits.restoration.training import RestorerTrainingError

    words = load_training(config, settings)
    if threads:
        torch.set_num_threads(threads)
    try:
        folder = out or Path("trainings") / words.name
        if isinstance(words, ClipRestorerTrainingWords):
            click.echo(ClipRestorerRun(words, folder, quiet).execute(resume))
        else:
            click.echo(TrainingRun(words, folder, quiet).execute(resume))
    except (CheckpointError, TrainingDataError, TrainingFolderError) as error:
        _fail(error, _WRONG_USE)
    except (TrainingError, RestorerTrainingError, PretrainedWeightsError) as error:
        _fail(error, _FAILED)
    except KeyboardInterrupt:
        _fail("interrupted; add --resume to go on", _INTERRUPTED)


@cli.command()
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Ray workers.")
@_exit_codes
def bench(workers: int) -> None:
    """Measure deliveries, frames per second and cold starts on this machine; a few minutes."""
    from roadbits.fleet.bench import bench as figures

    file = scenario_path("bench")
    (scenario,) = load_scenario(file)
    ray = _backend("ray", None, workers)
    try:
        for figure in figures(scenario, file, ray, workers):
            click.echo(f"{figure.name:<48} {figure.value:>14,.2f} {figure.unit}")
    finally:
        ray.close()
