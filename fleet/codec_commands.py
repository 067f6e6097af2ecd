"""The commands about codecs, without a fleet: `roadbits encode | decode | rd | codecs | train`.

Not here: runs of a fleet (`cli`); any work: heavy imports wait until a command needs them.
"""

import itertools
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from roadbits.codecs.bitstream import BitstreamError
from roadbits.fleet.commands import FAILED, INTERRUPTED, WRONG_USE, exit_codes, fail, settings_option

if TYPE_CHECKING:
    from roadbits.codecs.codec import ClipCodec, Codec
    from roadbits.codecs.timing import Timing

_TIMED_IMAGES, _TIMED_CLIPS = 4, 2
_CLIP_FRAMES = 32
_MISSED = 0.1
"""A rate at a codec's end that is off by as large a share is told of."""


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="IMAGE")
@click.argument("payload", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--codec", "codec_name", required=True, help="See `roadbits codecs`.")
@click.option("--point", help="An operating point, for example quality=30. Default: the middle of the ladder.")
@click.option("--bpp", "target_bpp", type=float, help="Search for the point nearest to this rate instead.")
@exit_codes
def encode(source: Path, payload: Path, codec_name: str, point: str | None, target_bpp: float | None) -> None:
    """Compress IMAGE into PAYLOAD; for a codec of clips, IMAGE is the folder of a clip's frames.

    With codec `passthrough`, IMAGE is a camera's video file, whose own H.264 or HEVC stream becomes the payload.
    """
    if point is not None and target_bpp is not None:
        raise click.UsageError("give --point or --bpp, not both")

    from roadbits.codecs.bitstream import unpack
    from roadbits.codecs.catalogue import still_or_clip_codec_named
    from roadbits.codecs.codec import Clip, ClipCodec, Codec, Image, OperatingPoint, is_clip_codec
    from roadbits.codecs.image import list_images, one_clip, read_clip, read_photograph
    from roadbits.codecs.legacy import passthrough
    from roadbits.codecs.target_rate import Encoded, encode_at

    _refuse_to_overwrite(payload, [source])
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
        if is_clip_codec(codec):
            frames = one_clip(list_images(source))
            _refuse_to_overwrite(payload, frames)
            pixels = read_clip(frames)
        else:
            pixels = read_photograph(source)
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
    ends = (codec.fine_points[0], codec.fine_points[-1])
    if target_bpp is not None and encoded.point in ends and abs(rate / target_bpp - 1) > _MISSED:
        lowest_or_highest = "lowest" if encoded.point == ends[0] else "highest"
        click.echo(
            f"roadbits: {target_bpp:g} bpp is out of reach of {codec.name} here: this is its {lowest_or_highest} rate",
            err=True,
        )


def _refuse_to_overwrite(target: Path, sources: Sequence[Path]) -> None:
    """Refuse to write what comes of some files over one of them.

    Raises:
        UsageError: naming both.
    """
    for source in sources:
        if target.exists() and source.exists() and target.samefile(source):
            raise click.UsageError(f"{target} would overwrite {source}, which it is made from: name another file")


@click.command()
@click.argument("payload", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path), metavar="IMAGE")
@click.option("--codec", "codec_name", help="Only for weights or an adapter of your own: NAME:FILE, NAME+FILE.")
@exit_codes
def decode(payload: Path, target: Path, codec_name: str | None) -> None:
    """Decompress PAYLOAD into IMAGE, a lossless format; a clip into PNG files in a folder IMAGE."""
    from roadbits.codecs import catalogue
    from roadbits.codecs.bitstream import MAX_BODY_BYTES
    from roadbits.codecs.codec import is_clip_codec, is_still_codec
    from roadbits.codecs.image import write_clip, write_image

    _refuse_to_overwrite(target, [payload])
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


@click.command()
@click.option("--images", type=click.Path(path_type=Path), help="A folder of images.")
@click.option("--clips", type=click.Path(path_type=Path), help="A folder of frames, cut into clips.")
@click.option("--clip-frames", type=click.IntRange(min=1), help="Frames of a clip.  [default: 32]")
@click.option("--codec", "names", required=True, help="Codecs, separated by commas.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the numbers here.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Draw the curves here.")
@click.option("--max-images", type=click.IntRange(min=1), help="Measure on that many images, or clips, evenly spaced.")
@click.option("--perceptual", is_flag=True, help="Also how differently ImageNet's EfficientNet-Lite0 sees them.")
@click.option("--timing", is_flag=True, help="Also time each codec at its middle point, on 4 images or 2 clips.")
@click.option("--bpp-range", type=(float, float), help="Take BD-rates between these two rates only, as in 0.1 0.8.")
@exit_codes
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
    from roadbits.codecs.codec import Clip, Image, is_clip_codec
    from roadbits.codecs.image import ImageFileError, clips_of, list_images, read_clip, read_photograph
    from roadbits.codecs.rate_distortion import Distance, bd_rates, measure_all
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
    total, folders = len(parts), len({file.parent for file in files})
    if max_images and len(parts) > max_images:
        parts = [parts[k * len(parts) // max_images] for k in range(max_images)]
    what = "clips" if clips else "images"
    click.echo(
        f"roadbits: measures {len(parts)} of {total} {what}" + f" in {folders} folders" * (folders > 1), err=True
    )
    at_hand: Path | None = None

    def read_all() -> Iterator[Image | Clip]:
        nonlocal at_hand
        for part in parts:
            at_hand = part[0]
            yield read_clip(list(part)) if clips else read_photograph(*part)

    distance: Distance | None = None
    if perceptual:
        from roadbits.fleet.restoring import seen_distance

        distance = seen_distance
    try:
        with Display().bar("measure", sum(len(codec.points) for codec in codecs)) as bar:
            points = measure_all(codecs, read_all, lambda _: bar.advance(), distance)
        timings = list(_timings(codecs, parts)) if timing else []
    except ValueError as error:
        raise ImageFileError(f"{at_hand or folder}: a codec cannot take it: {error}") from error
    rates = bd_rates(points, bpp_range)
    console = Console(width=None if sys.stdout.isatty() else 120)
    print_rd(points, rates, console, bpp_range)
    if timing:
        print_timings(timings, console)
    if json_file:
        json_file.write_text(json.dumps(rd_json(points, rates, timings), indent=1) + "\n")
    if page:
        write_rd_curves(points, page)


def _timings(codecs: "Sequence[Codec | ClipCodec]", parts: Sequence[Sequence[Path]]) -> "Iterator[Timing]":
    """Yield how long each codec takes at its middle point for a few images or clips, neural ones on 1 and 2 threads."""
    from roadbits.codecs.codec import is_clip_codec
    from roadbits.codecs.image import read_clip, read_photograph
    from roadbits.codecs.timing import time_codec

    images = [read_photograph(file) for file in itertools.islice(itertools.chain(*parts), _TIMED_IMAGES)]
    clips = [read_clip(list(part)) for part in parts[:_TIMED_CLIPS]] if any(map(is_clip_codec, codecs)) else []
    for codec in codecs:
        for threads in (1, 2) if codec.model_hash else (1,):
            pixels = clips if is_clip_codec(codec) else images
            yield time_codec(codec, codec.points[len(codec.points) // 2], pixels, threads)


@click.command()
def codecs() -> None:
    """List the codecs, their operating points, and what neural ones cost and weigh."""
    from rich.console import Console

    from roadbits.codecs.catalogue import clip_codecs, still_codecs
    from roadbits.codecs.legacy import passthrough
    from roadbits.fleet.report.codec_table import print_codecs

    console = Console(width=None if sys.stdout.isatty() else 168)
    print_codecs(still_codecs(), console)
    click.echo("\nof clips, for rd --clips, encode and decode:")
    print_codecs(clip_codecs(), console)
    click.echo(f" {passthrough.NAME:<13}  of a camera's video file, whose own stream is the payload")


@click.command()
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: trainings/NAME.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in that folder.")
@click.option("--threads", type=click.IntRange(min=1), help="Of torch; other numbers may round differently.")
@settings_option("a key of CONFIG, paths counting from its folder")
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@exit_codes
def train(
    config: Path, out: Path | None, resume: bool, threads: int | None, settings: tuple[str, ...], quiet: bool
) -> None:
    """Train what CONFIG, a YAML file, describes: a codec, or a restorer of clips; weights land in model.safetensors."""
    import torch

    from roadbits.codecs.training.crops import TrainingDataError
    from roadbits.codecs.training.rate_distortion import CheckpointError, TrainingError
    from roadbits.downstream.pretrained import PretrainedWeightsError
    from roadbits.fleet.training.clip_restorer import ClipRestorerRun
    from roadbits.fleet.training.clip_restorer_config import ClipRestorerTrainingWords
    from roadbits.fleet.training.file import load_training
    from roadbits.fleet.training.folder import TrainingFolderError
    from roadbits.fleet.training.run import TrainingRun
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
        fail(error, WRONG_USE)
    except (TrainingError, RestorerTrainingError, PretrainedWeightsError) as error:
        fail(error, FAILED)
    except KeyboardInterrupt:
        fail("interrupted; add --resume to go on", INTERRUPTED)
