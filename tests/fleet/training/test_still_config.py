from pathlib import Path

import pytest

from roadbits.codecs.catalogue import clip_codecs, still_or_clip_codec_named
from roadbits.codecs.neural.slim_clip import SlimClip
from roadbits.codecs.neural.slim_model import SlimModel, load_model
from roadbits.codecs.training.context_freezing import groups_of
from roadbits.codecs.training.rate_distortion import Schedule
from roadbits.fleet.training.clip_config import ClipCodecTraining, MovingPhotographs, StreetClips
from roadbits.fleet.training.context_config import ContextTraining
from roadbits.fleet.training.file import dump_training, load_training
from roadbits.fleet.training.still_config import FolderImages, StillCodecTraining, StreetImages
from roadbits.fleet.yaml_file import YamlFileError

SHIPPED = sorted((Path(__file__).parents[3] / "codecs" / "weights").glob("*.yaml"))
CONTEXTS = [path for path in SHIPPED if path.stem.endswith("-context")]
SHIPPED_STILLS = [path for path in SHIPPED if path.stem != "slimvc" and path.with_suffix(".safetensors").exists()]
COMPARED = sorted((Path(__file__).parents[3] / "scenarios" / "trainings").glob("*.yaml"))
SMALL = """\
name: small
kind: still-codec
codec: {kind: cae, channels: 8}
lambdas: [0.002, 5e-2]
steps: 12
crop: 64
data:
  - weight: 1
    images: {kind: folder, path: pictures}
validation:
  images:
    - {kind: street, seed: 1, drives: 2, frames: 1, interval_s: 2, sizes: [[64, 96]]}
"""


def load(tmp_path: Path, text: str) -> StillCodecTraining:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    words = load_training(path)
    assert isinstance(words, StillCodecTraining)
    return words


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(YamlFileError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def edited(old: str, new: str) -> str:
    assert SMALL.count(old) == 1
    return SMALL.replace(old, new)


def test_the_recipes_of_the_shipped_weights_are_valid_and_have_their_file_s_name() -> None:
    assert {path.stem for path in SHIPPED_STILLS} == {"cae", "hyperprior", "slimcae"}
    for path in (*SHIPPED, *COMPARED):
        assert load_training(path).name == path.stem
    assert len(COMPARED) > 1


@pytest.mark.parametrize("path", SHIPPED_STILLS, ids=lambda path: path.stem)
def test_the_shipped_weights_are_what_their_recipe_trains(path: Path) -> None:
    words, loaded = load_training(path), load_model(path.with_suffix(".safetensors"))
    assert isinstance(words, StillCodecTraining)
    codec, slim = words.codec, isinstance(loaded, SlimModel)
    models, widths = (loaded.models, loaded.widths) if isinstance(loaded, SlimModel) else ((loaded,), None)
    assert widths == getattr(codec, "widths", None)
    latents = codec.latent_channels or (codec.widths if slim else codec.channels)
    for model, width, latent in zip(models, widths or (codec.channels,), latents if slim else (latents,), strict=True):
        description = model.description
        assert ("slim" if slim else "") + description.architecture == codec.kind
        assert description.steps == words.steps
        assert [description.lambdas[position] for position in description.trained] == pytest.approx(words.lambdas)
        assert model.g_a.layers[0].num_outputs == width
        assert model.g_a.num_outputs == latent


@pytest.mark.parametrize("path", CONTEXTS, ids=lambda path: path.stem)
def test_a_shipped_context_is_what_its_recipe_trains(path: Path) -> None:
    words = load_training(path)
    assert isinstance(words, ContextTraining)
    assert words.codec.still == path.stem.removesuffix("-context")
    for codec, channels in zip(words.codec.widths_codecs(), words.codec.each_channels(), strict=True):
        context, described = codec.model.context, codec.model.description.context
        assert context is not None
        assert described is not None
        assert described.steps == words.steps
        assert context.groups == groups_of(words.codec.groups, len(context.order))
        assert {network.layers[0].num_outputs for network in context.networks} == {channels}


def test_the_shipped_temporal_model_is_what_its_recipe_trains() -> None:
    (path,) = (path for path in SHIPPED if path.stem == "slimvc")
    words, codec = load_training(path), still_or_clip_codec_named("slimvc")
    assert isinstance(words, ClipCodecTraining)
    assert isinstance(codec, SlimClip)
    description = codec.model.description
    assert (description.still, description.steps) == (words.codec.still, words.steps)
    assert description.widths == words.codec.still_model().widths
    assert [network.layers[0].num_outputs for network in codec.model.networks] == list(words.codec.channels)
    assert codec in clip_codecs()


@pytest.mark.parametrize("path", [*SHIPPED, *COMPARED], ids=lambda path: path.stem)
def test_no_shipped_recipe_is_validated_on_what_it_is_trained_on(path: Path) -> None:
    words = load_training(path)
    trained = words.train_on
    folders = {images.path for images in trained if isinstance(images, FolderImages | MovingPhotographs)}
    drives = {
        (images.seed, drive)
        for images in trained
        if isinstance(images, StreetImages | StreetClips)
        for drive in range(images.first_drive, images.first_drive + images.drives)
    }
    for images in words.validate_on:
        if isinstance(images, FolderImages | MovingPhotographs):
            assert images.path not in folders
        else:
            assert not drives & {(images.seed, images.first_drive + number) for number in range(images.drives)}


def test_what_is_left_out_has_the_training_loop_s_own_defaults(tmp_path: Path) -> None:
    words = load(tmp_path, edited("crop: 64\n", ""))
    assert words.schedule == Schedule((0.002, 0.05), 12)


def test_a_folder_is_taken_from_the_file_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES", "/somewhere")

    def path_of(text: str) -> str:
        images = load(tmp_path, edited("path: pictures", f"path: {text}")).data[0].images
        assert isinstance(images, FolderImages)
        return images.path

    assert path_of("pictures") == str(tmp_path / "pictures")
    assert path_of("../pictures") == str(tmp_path.parent / "pictures")
    assert path_of("/else/where") == "/else/where"
    assert path_of("$PICTURES/train") == "/somewhere/train"


def test_a_resolved_training_is_read_back_from_any_folder(tmp_path: Path) -> None:
    words = load(tmp_path, SMALL)
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    assert load(elsewhere, dump_training(words)) == words


def test_all_faults_are_reported_at_once_with_path_and_line(tmp_path: Path) -> None:
    text = (
        SMALL.replace("name: small", "name: small/er")
        .replace("channels: 8", "channel: 8")
        .replace("steps: 12", "steps: 1.5\nsteps: 2")
        .replace("seed: 1, ", "")
        .replace("weight: 1", "weight: 0")
    )
    assert [" ".join(line.split(" ")[:2]) for line in faults(tmp_path, text)] == [
        "small.yaml:1: name",
        "small.yaml:3: codec.channel",
        "small.yaml:3: codec.channels",
        "small.yaml:5: steps",
        "small.yaml:6: steps",
        "small.yaml:9: data[0].weight",
        "small.yaml:13: validation.images[0].seed",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("channels: 8", "channels: 8, mean: true", "3: codec.mean is no key of a training; there are "),
        (
            "kind: cae",
            "kind: jpeg",
            "3: codec.kind must be one of 'cae', 'hyperprior', 'slimcae', 'slimhyperprior', got 'jpeg'",
        ),
        (
            "kind: still-codec",
            "kind: restorer",
            "2: kind must be one of still-codec, context, clip-codec, clip-restorer, got 'restorer'",
        ),
        ("steps: 12", "steps: 12.5", "5: steps input should be a valid integer"),
        ("lambdas: [0.002, 5e-2]", "lambdas: [0.05, 0.002]", "4: lambdas must rise by a factor of at least 1.05"),
        ("lambdas: [0.002, 5e-2]", "lambdas: [0.002, 0.00205]", "4: lambdas must rise by a factor of at least 1.05"),
        ("lambdas: [0.002, 5e-2]", "lambdas: []", "4: lambdas"),
        ("lambdas: [0.002, 5e-2]", "lambdas: [0.002, .inf]", "4: lambdas[1] input should be a finite number"),
        ("crop: 64", "crop: 72", "6: crop must be a multiple of 16 for cae, got 72"),
        ("weight: 1", "weight: -1", "8: data[0].weight input should be greater than 0, got -1"),
        ("path: pictures", "path: pictures, factors: [0.5]", "9: data[0].images.factors[0] input should be greater"),
        ("sizes: [[64, 96]]", "sizes: [[64]]", "12: validation.images[0].sizes[0]"),
        ("drives: 2", "drives: 0", "12: validation.images[0].drives input should be greater than or equal to 1"),
        ("name: small", "name: ../small", "1: name"),
    ],
)
def test_a_fault_is_told_with_its_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    (told,) = faults(tmp_path, edited(old, new))
    assert told.startswith(f"small.yaml:{message}")


def test_a_hyperprior_s_crops_are_multiples_of_its_larger_stride(tmp_path: Path) -> None:
    codec = "{kind: hyperprior, channels: 8, latent_channels: 8}"
    text = edited("{kind: cae, channels: 8}", codec).replace("crop: 64", "crop: 80")
    assert faults(tmp_path, text) == ["small.yaml:6: crop must be a multiple of 64 for hyperprior, got 80"]


@pytest.mark.parametrize("section", ["name", "kind", "codec", "lambdas", "steps", "data", "validation"])
def test_a_missing_section_is_named(section: str, tmp_path: Path) -> None:
    lines = SMALL.splitlines(keepends=True)
    first = next(k for k, line in enumerate(lines) if line.startswith(section))
    rest = lines[first + 1 :]
    kept = next((k for k, line in enumerate(rest) if not line.startswith(" ")), len(rest))
    assert faults(tmp_path, "".join(lines[:first] + rest[kept:])) == [f"small.yaml:1: {section} is missing"]


@pytest.mark.parametrize("text", ["", "- 1\n", "cae\n"])
def test_a_file_of_another_shape_is_refused(text: str, tmp_path: Path) -> None:
    assert faults(tmp_path, text)[0].startswith("small.yaml:1: ")


SLIM = "{kind: slimcae, widths: [8, 12, 16]}"


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("{kind: slimcae, widths: [8, 16, 12]}", "widths must rise, got 8, 16, 12"),
        (
            "{kind: slimcae, widths: [8, 16], latent_channels: [8]}",
            "expected 2 latent_channels, one for each width, got 1",
        ),
        (
            "{kind: slimcae, widths: [96, 192], latent_channels: [192, 96]}",
            "latent_channels of a narrow width must be no more than the widest's, 96; got 192, 96",
        ),
        (
            "{kind: slimhyperprior, widths: [8, 12, 16], latent_channels: [8, 12, 8]}",
            "latent_channels of a narrow width must be no more than the widest's, 8; got 8, 12, 8",
        ),
        ("{kind: slimcae, widths: [8, 16], lambdas: [[0.01]]}", "expected 2 lambdas, one for each width, got 1"),
        ("{kind: slimcae, widths: [8, 16], lambdas: [[0.01], [0.02, 0.01]]}", "must rise by a factor of at least 1.05"),
        ("{kind: cae, method: scaling, channels: 8}", "give its checkpoint as start_from"),
        (
            "{kind: hyperprior, channels: 8, latent_channels: 8, layers: 4}\nstart: dct",
            "start dct needs transforms of three layers",
        ),
        ("{kind: cae, channels: 8}\nstart: dct\nstart_from: other", "give one of them"),
        ("{kind: cae, channels: 8}\nstart: nothing", "no codec 'nothing': choose from"),
        ("{kind: cae, channels: 8}\nstart: jpeg", "a cae cannot start from jpeg"),
        ("{kind: cae, channels: 8}\nstart: slimcae", "one width without an adapter, such as cae or slimcae/96"),
        ("{kind: slimcae, widths: [48, 96]}\nstart: cae", "a slimcae cannot start from cae"),
        ("{kind: slimcae, widths: [48, 96]}\nstart: slimcae", "slimcae has widths 48, 72, 96, 144, 192: give the same"),
        ("{kind: cae, channels: 8}\nmask_decay: {channels: 4, steps: 2}", "give its checkpoint as start_from"),
        (
            "{kind: cae, method: mae, channels: 8}\nstart_from: other\nmask_decay: {channels: 4, steps: 2}",
            "of method gain, got cae",
        ),
        (
            "{kind: cae, channels: 8}\nstart_from: other\nmask_decay: {channels: 8, steps: 2}",
            "mask_decay needs fewer channels than the codec's 8",
        ),
    ],
)
def test_a_codec_that_cannot_be_built_is_faults(tmp_path: Path, codec: str, words: str) -> None:
    assert words in " ".join(faults(tmp_path, edited("{kind: cae, channels: 8}", codec)))


def test_a_lambda_schedule_needs_widths_and_steps_before_the_cooldown(tmp_path: Path) -> None:
    rules = "lambda_schedule: {first_steps: 10, round_steps: 5}\n"
    assert "needs a slimmable codec" in " ".join(faults(tmp_path, SMALL + rules))
    slim = edited("{kind: cae, channels: 8}", SLIM).replace("lambdas: [0.002, 5e-2]", "lambdas: [0.06]")
    assert load(tmp_path, slim).lambda_schedule is None
    told = " ".join(faults(tmp_path, slim.replace("steps: 12", "steps: 100") + rules))
    assert "lambda_schedule may take 80 steps, the learning rate falls from step 70 of 100" in told
    assert load(tmp_path, slim.replace("steps: 12", "steps: 200") + rules).lambda_schedule is not None


def test_every_width_has_the_training_s_lambdas_or_its_own(tmp_path: Path) -> None:
    shared = load(tmp_path, edited("{kind: cae, channels: 8}", "{kind: slimcae, widths: [8, 16]}"))
    assert shared.lambdas_by_width == (shared.lambdas,) * 2
    assert shared.schedule.lambdas == shared.lambdas * 2
    own = "{kind: slimcae, widths: [8, 16], lambdas: [[0.002], [0.01, 0.03]]}"
    words = load(tmp_path, edited("{kind: cae, channels: 8}", own))
    assert words.lambdas_by_width == ((0.002,), (0.01, 0.03))
    assert words.schedule.lambdas == (0.002, 0.01, 0.03)


def test_settings_override_keys_and_their_faults_are_told_with_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "training.yaml"
    path.write_text(SMALL)
    words = load_training(path, ("codec.channels=12", "name=other", "validation.every=7"))
    assert (words.codec.channels, words.name, words.validation.every) == (12, "other", 7)
    with pytest.raises(YamlFileError) as caught:
        load_training(path, ("codec.channels=none", "colour"))
    assert "codec.channels" in str(caught.value)
    assert "'colour' is not of the form key=value" in str(caught.value)
