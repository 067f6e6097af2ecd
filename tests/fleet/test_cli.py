import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result

from roadbits.codecs.bitstream import CodecId, Container, pack
from roadbits.codecs.catalogue import LEGACY_CODECS, WEIGHTS, codec_named, still_codecs
from roadbits.codecs.codec import Codec, OperatingPoint
from roadbits.codecs.image import list_images, read_clip, read_image
from roadbits.codecs.legacy.clips import H264
from roadbits.codecs.metrics import bpp, psnr
from roadbits.fleet import cli
from roadbits.fleet.backend import BackendError
from roadbits.fleet.results import Results
from roadbits.fleet.run import Run
from roadbits.fleet.store import StoreError

HEIGHT, WIDTH = 48, 64
CODECS = pytest.mark.parametrize("codec", LEGACY_CODECS, ids=lambda codec: codec.name)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder without data."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ROADBITS_DATA", str(tmp_path / "no-data"))


def roadbits(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, list(map(str, arguments)), prog_name="roadbits")


def done(*arguments: object) -> str:
    result = roadbits(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(code: int, *arguments: object) -> str:
    """Return the message of a command that must fail with a code, with one clear message and no traceback."""
    result = roadbits(*arguments)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def picture(name: str, seed: int = 0) -> Path:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([127 + 60 * np.sin(x / 9 + k) + 50 * np.cos(y / (7 + k)) for k in range(3)], 2)
    noisy = waves + np.random.default_rng(seed).normal(0, 12, waves.shape)
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path)
    return path


def scenario(name: str = "mine", **changes: str) -> Path:
    """Write a small scenario over a folder of pictures; `changes` replace its lines."""
    for k in range(2):
        picture(f"frames/{k}.png", k)
    lines = {
        "name": name,
        "cameras": "{kind: folder, images: frames}",
        "fleet": "{vehicles: 1, uplink: {kind: constant, rate_mbps: 1}, device: {encode_mpx_per_s: {jpeg: 1}, "
        "encode_watts: 1, radio_joules_per_mbit: 1}}",
        "codecs": "[{name: jpeg, points: [quality=10]}]",
    }
    path = Path(f"{name}.yaml")
    path.write_text("".join(f"{key}: {value}\n" for key, value in (lines | changes).items()))
    return path


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run begin."""

    def begin(self: Run, resume: bool = False) -> Results:
        raise AssertionError("no run should begin")

    monkeypatch.setattr(Run, "execute", begin)


def test_help_names_every_command() -> None:
    text = done("--help")
    for command in ("run", "check", "report", "encode", "decode", "rd", "codecs"):
        assert f"\n  {command} " in text
        assert "Usage: roadbits " in done(command, "-h")


def test_the_version_is_told() -> None:
    assert done("--version").startswith("roadbits, version ")


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("command", ["run", "check"])
class TestBadScenario:
    def test_all_faults_are_told(self, command: str) -> None:
        path = scenario(codecs="[{name: jpg}]", sed="3")
        message = failed(2, command, path, "--set", "fleet.vehicles=0")
        assert message.splitlines() == [
            "roadbits: --set: fleet.vehicles input should be greater than or equal to 1, got 0",
            "mine.yaml:4: codecs[0].name no codec 'jpg': choose from jpeg, jpeg2000, webp, avif, hevc-intra, "
            "cae, hyperprior, slimcae, or NAME:FILE for weights of your own, of cae, hyperprior, scaling, mae, "
            "conditional, gain, slimcae, slimhyperprior, or NAME/WIDTH for one width of a codec of several, or "
            "any of these with +FILE.safetensors for an adapter; of clips: mpeg2, h264, h264-lowdelay, hevc, "
            "hevc-lowdelay, av1, av1-lowdelay, slimvc",
            "mine.yaml:5: sed is no key of a scenario; did you mean seed?",
        ]

    def test_an_unknown_name_lists_the_shipped_ones(self, command: str) -> None:
        message = failed(2, command, "smok")
        assert "no scenario 'smok': give the path of a YAML file, or one of " in message
        assert "camvid-legacy" in message
        assert "smoke" in message

    def test_a_missing_file_is_named(self, command: str) -> None:
        assert "roadbits: gone.yaml:1: cannot be read: " in failed(2, command, "gone.yaml")

    def test_no_scenario_is_wrong_use(self, command: str) -> None:
        assert "Missing argument 'SCENARIO" in failed(2, command)


def test_a_folder_of_a_shipped_scenarios_name_does_not_hide_it() -> None:
    Path("smoke").mkdir()
    assert done("check", "smoke", "--set", "downstream=null").startswith("smoke: ")


def test_check_tells_what_would_run_and_what_it_costs() -> None:
    lines = done("check", "smoke").splitlines()
    assert lines[0].startswith("smoke: Does every part of the program work together?")
    assert "  frames    18 of 3 vehicles, 6 to test on" in lines
    assert "  train     8 segmenters x 4 steps of 2 crops 96x128, FPN on tu-tf_efficientnet_lite0" in lines
    assert [line.split()[1] for line in lines if line.startswith("  bytes ")] == [
        "jpeg:quality=10",
        "jpeg:quality=60",
        "webp:quality=20",
    ]


def test_check_tells_the_faults_of_all_scenarios_and_what_is_good() -> None:
    bad, good = scenario("bad", sed="3"), scenario("good")
    result = roadbits("check", bad, good, "gone")
    assert result.exit_code == 2
    assert result.stdout.startswith("good: no question given\n")
    assert "bad.yaml:5: sed is no key" in result.stderr
    assert "no scenario 'gone'" in result.stderr


def test_check_of_a_sweep_tells_every_variant() -> None:
    text = done("check", scenario(), "--set", "fleet.uplink.rate_mbps=[1, 2]")
    assert "mine-fleet.uplink.rate_mbps=1: " in text
    assert "mine-fleet.uplink.rate_mbps=2: " in text


@pytest.mark.parametrize("command", [("check",), ("run", "--backend", "local", "--quiet")], ids=["check", "run"])
def test_a_missing_data_folder_is_named_with_what_to_do(command: tuple[str, ...], tmp_path: Path) -> None:
    message = failed(2, *command, "camvid-legacy")
    assert f"{tmp_path}/no-data/camvid" in message
    assert "--set cameras.path=" in message


@pytest.mark.parametrize("command", [("check",), ("run", "--backend", "local", "--quiet")], ids=["check", "run"])
def test_testing_on_training_frames_is_refused(command: tuple[str, ...]) -> None:
    path = scenario(cameras="{kind: folder, images: frames, test_images: frames}")
    assert "test frames must never train anything" in failed(2, *command, path)


def test_an_existing_run_is_not_touched_without_resume() -> None:
    path, folder = scenario(), Path("runs/mine")
    folder.mkdir(parents=True)
    (folder / "uploads.sqlite").write_text("old")
    message = failed(2, "run", path, "--backend", "local")
    assert "runs/mine holds a run already: add --resume to continue it, or choose another --out" in message
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("uploads.sqlite", "old")]


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("option", [("--address", "auto"), ("--workers", "2")])
def test_ray_s_options_are_of_no_use_to_the_local_backend(option: tuple[str, str]) -> None:
    message = failed(2, "run", scenario(), "--backend", "local", *option)
    assert "--address and --workers are Ray's, which --backend local does without" in message


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize("option", [("--workers", "0"), ("--backend", "spark"), ("--frobnicate",)])
def test_wrong_options_are_wrong_use(option: tuple[str, ...]) -> None:
    failed(2, "run", scenario(), *option)


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (KeyboardInterrupt(), 130, "interrupted; add --resume to go on"),
        (StoreError("uploads.sqlite: disk is full"), 3, "uploads.sqlite: disk is full"),
        (BackendError("a worker failed"), 3, "a worker failed"),
        (
            OSError(28, "No space left on device"),
            3,
            "No space left on device; what was stored is safe: mend it and add --resume",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_has_its_exit_code(
    error: BaseException, code: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(self: Run, resume: bool = False) -> Results:
        raise error

    monkeypatch.setattr(Run, "execute", execute)
    message = failed(code, "run", scenario(), "--backend", "local")
    assert message.startswith("roadbits: ")
    assert expected in message


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, bool]]]:
    """Note runs instead of executing them: (scenario's name, folder, resume)."""
    seen: list[tuple[str, str, bool]] = []

    def execute(self: Run, resume: bool = False) -> Results:
        seen.append((self._plan.scenario.name, str(self._folder), resume))
        return Results(self._plan.scenario.name, 0, [], [])

    monkeypatch.setattr(Run, "execute", execute)
    monkeypatch.setattr(cli, "_show", lambda results, folder: None)
    monkeypatch.setattr(cli, "_write_report", lambda folders, page: seen.append(("report", str(page), False)))
    yield seen


def test_a_run_goes_to_a_folder_of_its_name(asked: list[tuple[str, str, bool]]) -> None:
    done("run", scenario())
    done("run", scenario(), "--out", "there", "--resume")
    assert asked == [("mine", "runs/mine", False), ("mine", "there", True)]


def test_a_sweep_runs_its_variants_one_after_the_other(asked: list[tuple[str, str, bool]]) -> None:
    done("run", scenario(), "--set", "seed=[3, 4]", "--out", "there")
    assert asked == [
        ("mine-seed=3", "there/mine-seed=3", False),
        ("mine-seed=4", "there/mine-seed=4", False),
        ("report", "there/report.html", False),
    ]


def test_the_variants_of_a_sweep_take_stages_from_each_other_and_from_runs_named(
    monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, str, bool]]
) -> None:
    taken: list[tuple[Path, ...]] = []

    def execute(self: Run, resume: bool = False) -> Results:
        taken.append(self._reused)
        return Results(self._plan.scenario.name, 0, [], [])

    monkeypatch.setattr(Run, "execute", execute)
    Path("before").mkdir()
    Path("before/scenario.yaml").touch()
    done("run", scenario(), "--set", "seed=[3, 4]", "--out", "there", "--reuse", "before")
    first, second, before = Path("there/mine-seed=3"), Path("there/mine-seed=4"), Path("before")
    assert taken == [(second, before), (first, before)]


def test_what_is_no_run_is_not_reused() -> None:
    Path("empty").mkdir()
    message = failed(2, "run", scenario(), "--reuse", "empty")
    assert "--reuse empty: expected the folder of a run, but it holds no scenario.yaml" in message
    assert not Path("runs").exists()


def test_a_report_of_no_run_names_what_is_missing() -> None:
    Path("empty").mkdir()
    assert "empty/results.json" in failed(2, "report", "empty")


@CODECS
def test_an_image_survives_encode_and_decode(codec: Codec) -> None:
    image, point = read_image(picture("in.png")), codec.points[-1]
    told = done("encode", "in.png", "p.rb", "--codec", codec.name, "--point", point)
    payload = Path("p.rb").read_bytes()
    assert payload == codec.encode(image, point)
    assert told == f"{codec.name} {point}: {len(payload)} bytes, {bpp(len(payload), HEIGHT, WIDTH):.4f} bpp\n"
    assert done("decode", "p.rb", "out.png") == f"{HEIGHT} x {WIDTH} pixels\n"
    decoded = read_image(Path("out.png"))
    np.testing.assert_array_equal(decoded, codec.decode(payload))
    assert psnr(decoded, image) > 25


@CODECS
def test_a_target_rate_is_come_near(codec: Codec) -> None:
    picture("in.png")
    done("encode", "in.png", "p.rb", "--codec", codec.name, "--bpp", "2.5")
    assert bpp(Path("p.rb").stat().st_size, HEIGHT, WIDTH) == pytest.approx(2.5, rel=0.1)


def test_without_point_or_rate_the_middle_of_the_ladder_is_taken() -> None:
    picture("in.png")
    assert done("encode", "in.png", "p.rb", "--codec", "jpeg").startswith("jpeg quality=50: ")


def test_a_clip_survives_encode_and_decode() -> None:
    for frame in (10, 9, 2):
        picture(f"drive/{frame}.png", seed=frame)
    told = done("encode", "drive", "p.rb", "--codec", "h264", "--point", "crf=23")
    payload = Path("p.rb").read_bytes()
    assert payload == H264.encode(read_clip([Path(f"drive/{k}.png") for k in (2, 9, 10)]), OperatingPoint.of(crf=23))
    assert told == f"h264 crf=23: {len(payload)} bytes, {bpp(len(payload), 3 * HEIGHT, WIDTH):.4f} bpp\n"
    assert done("decode", "p.rb", "out") == f"{HEIGHT} x {WIDTH} pixels, 3 frames\n"
    decoded = [read_image(path) for path in list_images(Path("out"))]
    np.testing.assert_array_equal(decoded, H264.decode(payload))
    assert "out: is not empty" in failed(2, "decode", "p.rb", "out")
    picture("drive/other/1.png")
    assert "drive and drive/other: a clip's frames must be in one folder" in failed(
        2, "encode", "drive", "p.rb", "--codec", "h264"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--codec", "jpeg", "--point", "quality=30", "--bpp", "1"), "give --point or --bpp, not both"),
        (("--codec", "jpg"), "no codec 'jpg': choose from jpeg, jpeg2000, webp, avif, hevc-intra, "),
        (("--codec", "jpeg", "--point", "quality=0"), "expected quality=N, N a whole number 1..100"),
        (("--codec", "jpeg", "--point", "best"), "'best' is not of the form knob=value"),
        (("--codec", "jpeg", "--bpp", "0"), "target rate is 0.0 bpp, expected more than 0 and finite"),
        (("--codec", "jpeg", "--bpp", "nan"), "expected more than 0 and finite"),
        ((), "Missing option '--codec'"),
    ],
)
def test_wrong_use_of_encode_writes_nothing(options: tuple[str, ...], expected: str) -> None:
    picture("in.png")
    assert expected in failed(2, "encode", "in.png", "p.rb", *options)
    assert not Path("p.rb").exists()


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_what_is_no_image_is_not_encoded(content: bytes | None) -> None:
    if content is not None:
        Path("in.png").write_bytes(content)
    assert "roadbits: in.png: cannot be read as an image" in failed(2, "encode", "in.png", "p.rb", "--codec", "jpeg")
    assert not Path("p.rb").exists()


def truncated() -> bytes:
    done("encode", picture("in.png"), "whole.rb", "--codec", "webp")
    return Path("whole.rb").read_bytes()[:-1]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: b"", "payload is 0 bytes, shorter than any header: truncated?"),
        (lambda: b"garbage" * 20, "payload begins with b'ga', expected b'RB': not a roadbits payload"),
        (lambda: Path(picture("in.png")).read_bytes(), "not a roadbits payload"),
        (truncated, "truncated?"),
        (lambda: pack(Container(CodecId.JPEG, 9, 9, (30,), b"no jpeg")), "jpeg body does not decode"),
    ],
    ids=["empty", "garbage", "an image", "truncated", "a body that is no jpeg"],
)
def test_what_is_no_payload_is_not_decoded(make: object, expected: str) -> None:
    Path("p.rb").write_bytes(make())  # type: ignore[operator]
    message = failed(3, "decode", "p.rb", "out.png")
    assert message.startswith("roadbits: p.rb: ")
    assert expected in message
    assert not Path("out.png").exists()


def test_a_missing_payload_is_named() -> None:
    assert "'gone.rb'" in failed(2, "decode", "gone.rb", "out.png")


def test_a_lossy_format_is_no_place_for_a_decoded_image() -> None:
    done("encode", picture("in.png"), "p.rb", "--codec", "webp")
    assert "out.jpg: .jpg is no lossless format" in failed(2, "decode", "p.rb", "out.jpg")
    assert not Path("out.jpg").exists()


def test_every_codec_is_listed_with_its_points() -> None:
    *lines, clips = done("codecs").splitlines()[1:]
    assert "mpeg2, h264, h264-lowdelay, hevc, hevc-lowdelay, av1, av1-lowdelay" in clips
    assert clips.endswith("passthrough of a camera's own")
    assert [line.split()[0] for line in lines] == [codec.name for codec in still_codecs()]
    for line, codec in zip(lines, still_codecs(), strict=True):
        told = []
        for knob, _ in codec.points[0].settings:
            values = [point[knob] for point in codec.points]
            is_only_knob = len(codec.points[0].settings) == 1
            told += [knob, *(f"{value:g}" for value in (values if is_only_knob else sorted(set(values))))]
        assert line.split()[1 : 1 + len(told)] == told
        assert line.rstrip().endswith(codec.model_hash.hex())


def test_rd_prints_a_table_and_writes_what_others_read() -> None:
    for k in range(2):
        picture(f"images/deep/{k}.png", k)
    text = done("rd", "--images", "images", "--codec", "jpeg, webp", "--json", "rd.json")
    data = json.loads(Path("rd.json").read_text())
    arms = [("jpeg", str(p)) for p in LEGACY_CODECS[0].points] + [("webp", str(p)) for p in LEGACY_CODECS[2].points]
    assert [(row["codec"], row["point"]) for row in data["points"]] == arms
    for row in data["points"]:
        assert set(row) >= {"codec", "point", "images", "bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s"}
        assert row["images"] == 2
        assert all(row[name] > 0 for name in ("bpp", "psnr_db", "ms_ssim", "encode_s", "decode_s"))
        cells = [f"{row['bpp']:.4f}", f"{row['psnr_db']:.2f}", f"{row['ms_ssim']:.4f}"]
        (line,) = [line for line in text.splitlines() if line.split()[:2] == [row["codec"], row["point"]]]
        assert line.split()[2:5] == cells
    rates = data["bd_rate_percent"]
    assert set(rates) == {"jpeg vs webp", "webp vs jpeg"}
    assert (1 + rates["jpeg vs webp"] / 100) * (1 + rates["webp vs jpeg"] / 100) == pytest.approx(1, rel=0.01)
    for rate in rates.values():
        assert f"{rate:+.1f}" in text


def test_rd_draws_neural_and_legacy_codecs_and_times_them() -> None:
    picture("images/0.png", 0)
    text = done("rd", "--images", "images", "--codec", "jpeg,cae", "--html", "rd.html", "--json", "rd.json", "--timing")
    page = Path("rd.html").read_text()
    assert "plotly" in page
    for codec in (codec_named("jpeg"), codec_named("cae")):
        assert all(str(point) in page for point in codec.points)
    timings = json.loads(Path("rd.json").read_text())["timings"]
    assert [(row["codec"], row["threads"]) for row in timings] == [("jpeg", 1), ("cae", 1), ("cae", 2)]
    for row in timings[1:]:
        for side in ("encode", "decode"):
            assert set(row[f"{side}_sections_s"]) == {"transform", "entropy", "container"}
            assert sum(row[f"{side}_sections_s"].values()) <= row[f"{side}_s"]
    assert "s/Mpx" in text


def test_rd_measures_as_many_images_as_it_is_told() -> None:
    for k in range(3):
        picture(f"images/{k}.png", k)
    done("rd", "--images", "images", "--codec", "jpeg", "--json", "rd.json", "--max-images", "2")
    data = json.loads(Path("rd.json").read_text())
    assert {row["images"] for row in data["points"]} == {2}
    assert data["bd_rate_percent"] == {}


def test_rd_measures_clips_beside_stills() -> None:
    for k in range(7):
        picture(f"drive/{k}.png", k)
    files = ("--json", "rd.json", "--html", "rd.html")
    text = done(
        "rd", "--clips", "drive", "--clip-frames", "3", "--codec", "h264,jpeg", "--perceptual", "--timing", *files
    )
    assert all(title in Path("rd.html").read_text() for title in ("flicker, grey levels", "PSNR over time", "distance"))
    rows = json.loads(Path("rd.json").read_text())["points"]
    assert [row["point"] for row in rows[:2]] == ["crf=43", "crf=39"]
    assert {row["codec"] for row in rows} == {"h264", "jpeg"}
    assert all(len(row["psnr_over_time"]) == 3 and row["flicker"] > 0 and row["distance"] > 0 for row in rows)
    assert {row["images"] for row in rows} == {6}  # the seventh frame fills no clip
    timings = json.loads(Path("rd.json").read_text())["timings"]
    assert [(row["codec"], row["threads"], row["decode_s"] > 0) for row in timings] == [
        ("h264", 1, True),
        ("jpeg", 1, True),
    ]
    assert "h264" in text


def test_rd_of_clips_and_stills_mixed_up_is_wrong_use() -> None:
    picture("drive/0.png", 0)
    assert "give --clips" in failed(2, "rd", "--images", "drive", "--codec", "h264")
    assert "one of them" in failed(2, "rd", "--codec", "jpeg")
    assert "one of them" in failed(2, "rd", "--images", "drive", "--clips", "drive", "--codec", "jpeg")
    PIL.Image.new("RGB", (40, 30)).save("drive/1.png")
    assert "of one size, got" in failed(2, "rd", "--clips", "drive", "--codec", "h264")
    assert "not --images" in failed(2, "rd", "--images", "drive", "--codec", "jpeg", "--clip-frames", "2")


def test_rd_without_images_or_codec_is_wrong_use() -> None:
    assert "gone: no such folder" in failed(2, "rd", "--images", "gone", "--codec", "jpeg")
    Path("empty").mkdir()
    assert "empty: holds no image" in failed(2, "rd", "--images", "empty", "--codec", "jpeg")
    picture("images/0.png")
    assert "no codec 'jpg'" in failed(2, "rd", "--images", "images", "--codec", "jpeg,jpg")


def test_bars_stay_off_stdout() -> None:
    picture("images/0.png")
    result = roadbits("rd", "--images", "images", "--codec", "jpeg")
    assert "measure" in result.stderr
    assert "measure" not in result.stdout


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("downstream.encoder=resnet18", "no installed ImageNet weights"),
        ("downstream={steps: 1, encoder: resnet999, pretrained: false}", "cannot build"),
        ("downstream.options={frobnicate: 1}", "cannot build"),
    ],
)
def test_check_refuses_a_segmenter_that_cannot_be_built(setting: str, fault: str) -> None:
    assert fault in failed(2, "check", "smoke", "--set", setting)


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_that_holds_something_else_is_left_alone(resume: list[str]) -> None:
    """The scenario's own folder, for instance: its file would be replaced by the resolved one."""
    path = scenario()
    project = Path("project")
    project.mkdir()
    path.rename(project / "scenario.yaml")
    before = (project / "scenario.yaml").read_text()
    arguments = ("run", project / "scenario.yaml", "--out", project, "--backend", "local", "--quiet", *resume)
    assert "project holds scenario.yaml and no run: choose another --out" in failed(2, *arguments)
    assert (project / "scenario.yaml").read_text() == before
    assert [path.name for path in project.iterdir()] == ["scenario.yaml"]


def test_resuming_what_never_began_is_told_and_a_sweep_replaces_no_run_s_page() -> None:
    path = scenario()
    done("run", path, "--out", "typo", "--backend", "local", "--quiet", "--resume")
    assert "there is no typo to resume: this run begins anew" in Path("typo/log.jsonl").read_text()
    page = Path("typo/report.html").read_bytes()
    sweep = ("--set", "fleet.uplink.rate_mbps=[1, 2]", "--backend", "local", "--quiet")
    assert "typo holds a run, whose page a sweep's would replace" in failed(2, "run", path, "--out", "typo", *sweep)
    assert Path("typo/report.html").read_bytes() == page
    done("run", path, *sweep)
    assert Path("runs/mine-sweep/report.html").is_file()


def test_a_rate_out_of_reach_is_told() -> None:
    picture("in.png")
    for target, end in ((0.001, "lowest"), (90, "highest")):
        result = roadbits("encode", "in.png", "p.rb", "--codec", "jpeg", "--bpp", target)
        assert result.exit_code == 0
        assert f"{target:g} bpp is out of reach of jpeg here: this is its {end} rate" in result.stderr
    assert "reach" not in roadbits("encode", "in.png", "p.rb", "--codec", "jpeg", "--bpp", 2).stderr


def test_weights_of_another_kind_of_codec_are_told_in_a_line() -> None:
    picture("in.png")
    message = failed(2, "encode", "in.png", "p.rb", "--codec", f"cae:{WEIGHTS / 'slimvc.safetensors'}")
    assert "got 'roadbits-temporal-1': are they of another kind of codec?" in message
    assert message.count("\n") == 4, "of which three are the usage"


def test_rd_tells_what_it_measures_and_which_image_does_not_suit_a_codec() -> None:
    for name in ("set/a/0.png", "set/a/1.png", "set/b/2.png"):
        picture(name)
    result = roadbits("rd", "--images", "set", "--codec", "jpeg", "--max-images", 2)
    assert result.exit_code == 0
    assert "measures 2 of 3 images in 2 folders" in result.stderr
    PIL.Image.fromarray(np.zeros((7, 3, 3), np.uint8)).save("set/b/tiny.png")
    assert "set/b/tiny.png: a codec cannot take it: codec cae wants sides" in failed(
        2, "rd", "--images", "set", "--codec", "cae"
    )


def test_a_file_of_the_other_kind_is_told_by_name() -> None:
    path = scenario()
    recipe = Path("recipe.yaml")
    recipe.write_text("name: mine\nkind: still-codec\ncodec: {kind: cae}\n")
    assert "recipe.yaml:1: this is the recipe of a training: roadbits train recipe.yaml" in failed(2, "run", recipe)
    assert f"{path}:1: this is a scenario: roadbits run {path}" in failed(2, "train", path)
    picture("in.png")
    message = failed(2, "encode", "in.png", "p.rb", "--codec", "h264")
    assert "in.png: is a file, expected a folder of images" in message
