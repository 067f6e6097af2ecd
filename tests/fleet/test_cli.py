import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadbits.fleet import cli
from roadbits.fleet.backend import BackendError
from roadbits.fleet.results import Results, SharingNote
from roadbits.fleet.run import Run
from roadbits.fleet.store import StoreError
from tests.fleet.command_line import done, failed, picture, roadbits, written

pytestmark = pytest.mark.usefixtures("empty_folder")


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
    return written(name, lines | changes)


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


def test_the_command_line_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'torchvision', 'ray', 'flwr', 'av', 'plotly', 'panda3d'}"
    program = f"import sys, roadbits.fleet.cli; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


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


def test_a_file_of_the_other_kind_is_told_by_name() -> None:
    path = scenario()
    recipe = Path("recipe.yaml")
    recipe.write_text("name: mine\nkind: still-codec\ncodec: {kind: cae}\n")
    assert "recipe.yaml:1: this is the recipe of a training: roadbits train recipe.yaml" in failed(2, "run", recipe)
    assert f"{path}:1: this is a scenario: roadbits run {path}" in failed(2, "train", path)
    picture("in.png")
    message = failed(2, "encode", "in.png", "p.rb", "--codec", "h264")
    assert "in.png: is a file, expected a folder of images" in message


@pytest.mark.parametrize(("has_quorum", "code"), [((False, False), 3), ((False, True), 0)])
def test_a_run_none_of_whose_federated_rounds_had_its_quorum_ends_with_3_once_all_is_written(
    has_quorum: tuple[bool, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = [{"number": k + 1, "has_quorum": each} for k, each in enumerate(has_quorum)]
    shown: list[str] = []

    def execute(self: Run, resume: bool = False) -> Results:
        notes = [SharingNote("federated", "dusk", {}, [], rounds, {}), SharingNote("local", "dusk", {}, [], [], {})]
        return Results(self._plan.scenario.name, 0, [], [], adapter_sharing=notes)

    monkeypatch.setattr(Run, "execute", execute)
    monkeypatch.setattr(cli, "_show", lambda results, folder: shown.append(results.scenario))
    monkeypatch.setattr(cli, "_write_report", lambda folders, page: shown.append("page"))
    result = roadbits("run", scenario(), "--set", "seed=[3, 4]")
    assert result.exit_code == code
    assert shown == ["mine-seed=3", "mine-seed=4", "page"]
    told = "roadbits: mine-seed=3, mine-seed=4: no federated round had its quorum, so none gave an adapter; "
    assert (told in result.stderr) == (code == 3)


@pytest.mark.usefixtures("asked")
def test_adapters_of_a_run_are_told_with_how_to_use_one() -> None:
    device = "encode_watts: 1, radio_joules_per_mbit: 1, gmac_per_s: 9, joules_per_gmac: 1, memory_mb: 256"
    adapting = {
        "cameras": "{kind: street, domains: [day, dusk], frames_per_vehicle: 2, test_frames: 2}",
        "fleet": f"{{vehicles: 2, uplink: {{kind: constant, rate_mbps: 1}}, device: {{{device}}}}}",
        "codecs": "[{name: cae, points: [lambda=0.0067]}]",
        "adaptation": "{codec: cae, point: lambda=0.0067}",
    }
    path, folder = scenario(**adapting), Path("there/adapters")
    assert "adapters" not in done("run", path, "--out", "there")
    folder.mkdir(parents=True)
    for k in range(10):
        (folder / f"local-dusk-vehicle-{k}.safetensors").touch()
    *paths, more, use = done("run", path, "--out", "there").splitlines()
    assert paths == [f"there/adapters/local-dusk-vehicle-{k}.safetensors" for k in range(8)]
    assert more == "and 2 adapters more beside them"
    assert use.endswith("roadbits rd --images DIR --codec cae,cae+FILE")
