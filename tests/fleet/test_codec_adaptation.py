"""Runs that adapt: what is measured, the same digest whatever happens on the way, and what is refused."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadbits.codecs.adaptation.danice import Adapter
from roadbits.codecs.adaptation.update import packed, unadapted
from roadbits.codecs.bitstream import unpack
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.neural.still import NeuralStill
from roadbits.fleet.adaptation_words import Sharing
from roadbits.fleet.adapter_exchange import Exchange
from roadbits.fleet.adapter_files import write_adapters
from roadbits.fleet.adapting import Watched, source_codec, train_adapter
from roadbits.fleet.archive import Arrays
from roadbits.fleet.backend import BackendError, LocalBackend
from roadbits.fleet.cameras.frame import DataError
from roadbits.fleet.codec_adaptation import CodecAdaptation
from roadbits.fleet.fittings import Equipped
from roadbits.fleet.forecast import forecast
from roadbits.fleet.plan import Plan
from roadbits.fleet.progress import Display
from roadbits.fleet.report.page import write_report
from roadbits.fleet.results import AdaptationRow, Results
from roadbits.fleet.run import Run
from roadbits.fleet.scenario import Scenario
from roadbits.fleet.scenario_file import load_scenario
from roadbits.fleet.stages import Stages
from roadbits.fleet.store import Store
from roadbits.fleet.vehicle import Arm
from roadbits.fleet.yaml_file import YamlFileError

SMOKE = Path(__file__).parents[2] / "scenarios" / "smoke.yaml"
POINT = "lambda=0.0067"
ADAPTED = (
    "fleet.vehicles=3",
    "fleet.faults={}",
    "fleet.uplink={kind: constant, rate_mbps: 2.0}",
    "fleet.deadline_s=60",
    "fleet.max_backlog_bytes=2000000",
    "fleet.device={encode_watts: 5, radio_joules_per_mbit: 1, gmac_per_s: 20.0, joules_per_gmac: 0.3, memory_mb: 256}",
    "cameras={kind: street, height: 96, width: 128, domains: [day, night], frames_per_vehicle: 14, interval_s: 5.0, "
    "test_frames: 4, test_vehicles: 1}",
    "codecs=[{name: cae, points: [lambda=0.0067]}]",
    "adaptation={codec: cae, point: lambda=0.0067, points: [lambda=0.0009, lambda=0.0067, lambda=0.025], "
    "sharing: [federated, local, central], methods: [cawf, density, finetune, replay, joint, scratch], "
    "frames: 2, rounds: 2, steps: 2, "
    "quorum: 2, batch_size: 1, crop: 64, server_gmac_per_s: 100.0, measured_frames: 2, "
    "drift: {baseline_frames: 3, threshold: 4.0}}",
    "downstream=null",
)


def scenario(*settings: str) -> Scenario:
    (found,) = load_scenario(SMOKE, (*ADAPTED, *settings))
    return found


def execute(folder: Path, *settings: str, backend: type[LocalBackend] = LocalBackend, resume: bool = False) -> Results:
    return Run(scenario(*settings), folder, backend, quiet=True).execute(resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, execute(folder)


def row_of(results: Results, sharing: str, method: str = "cawf") -> AdaptationRow:
    (row,) = [row for row in results.adaptation if (row.sharing, row.method) == (sharing, method)]
    return row


def test_every_way_of_sharing_is_an_arm_beside_the_source(whole: tuple[Path, Results]) -> None:
    codecs = [row.codec for row in whole[1].uploads]
    assert codecs == ["cae", "cae+federated", "cae+local", "cae+central"]
    assert all(row.delivered == 42 for row in whole[1].uploads)


def test_adapters_forget_nothing_and_fine_tuning_breaks_old_payloads(whole: tuple[Path, Results]) -> None:
    for row in whole[1].adaptation:
        if row.method in ("cawf", "density"):
            assert row.bd_rate_source == 0
            assert row.old_payloads_bit_exact == 1
            assert row.old_payloads_change_db == 0
            assert row.parameters_percent < 3
        else:
            assert row.bd_rate_source != 0
            assert row.old_payloads_bit_exact == 0
            assert row.parameters_percent == pytest.approx(100, abs=0.1)
    replay, finetuned = (row_of(whole[1], "pooled", method) for method in ("replay", "finetune"))
    assert replay.old_payloads_change_db is not None
    assert finetuned.old_payloads_change_db is None or finetuned.old_payloads_change_db < replay.old_payloads_change_db


def test_every_method_is_measured_on_every_domain(whole: tuple[Path, Results]) -> None:
    rows = whole[1].adaptation
    assert {row.method for row in rows if row.sharing == "pooled"} >= {"cawf", "density", "finetune", "replay", "joint"}
    assert all(set(row.bd_rate_on) == {"day", "night"} for row in rows)
    assert all(row.bd_rate_on["night"] == row.bd_rate_target for row in rows)
    assert all(row.bd_rate_on["day"] == row.bd_rate_source for row in rows)


def test_an_adapter_of_the_density_alone_is_tiny(whole: tuple[Path, Results]) -> None:
    assert row_of(whole[1], "pooled", "density").adapter_bytes < 1000
    assert row_of(whole[1], "pooled", "density").bd_rate_target != row_of(whole[1], "pooled").bd_rate_target


def test_what_happened_is_told_in_virtual_time(whole: tuple[Path, Results]) -> None:
    federated = next(note for note in whole[1].adapter_sharing if note.sharing == "federated")
    assert federated.domain == "night"
    assert set(federated.noticed_s) == {"0", "1", "2"}
    assert [note["has_quorum"] for note in federated.rounds] == [True, True]
    assert all(federated.equipped_s[vehicle] > federated.noticed_s[vehicle] for vehicle in federated.noticed_s)


def test_payloads_name_the_adapter_that_made_them_once_it_is_on_board(whole: tuple[Path, Results]) -> None:
    folder, results = whole
    note = next(note for note in results.adapter_sharing if note.sharing == "federated")
    with Store(folder / "uploads.sqlite") as store:
        records = list(store.records("cae+federated", POINT, payloads=True))
    named = set()
    for record in records:
        assert record.payload is not None
        adapter = unpack(record.payload).adapter_hash
        on_board = record.captured_us >= note.equipped_s[str(record.vehicle)] * 1e6
        assert bool(adapter) == (on_board and record.domain == "night")
        named |= {adapter} - {b""}
    assert len(named) == 1
    assert named != {codec_named("cae").model_hash}


def test_a_run_that_shared_its_adapters_has_not_lost_its_quorum(whole: tuple[Path, Results]) -> None:
    assert not whole[1].lost_quorum


def test_the_traffic_of_adapters_is_charged_to_the_arm(whole: tuple[Path, Results]) -> None:
    rows = {row.codec: row for row in whole[1].uploads}
    for sharing in ("federated", "local", "central"):
        traffic = row_of(whole[1], sharing).traffic_bytes
        assert traffic > 0
        assert rows[f"cae+{sharing}"].adapter_bytes == traffic
        with Store(whole[0] / "uploads.sqlite") as store:
            payloads = sum(record.payload_bytes for record in store.records(f"cae+{sharing}", POINT))
        assert rows[f"cae+{sharing}"].bytes == traffic + payloads
    assert rows["cae"].adapter_bytes == 0


def test_all_vehicles_learn_in_the_federation_and_one_in_each_corner(whole: tuple[Path, Results]) -> None:
    federated, local = row_of(whole[1], "federated"), row_of(whole[1], "local")
    assert (federated.vehicles, federated.frames, federated.equipped, federated.rounds) == (3, 6, 3, 2)
    assert (local.vehicles, local.frames, local.equipped, local.rounds) == (3, 6, 3, 0)


def test_watching_and_training_are_charged(whole: tuple[Path, Results]) -> None:
    federated, central = row_of(whole[1], "federated"), row_of(whole[1], "central")
    decoding = codec_named("cae").complexity(OperatingPoint.parse(POINT), 96, 128).decode_macs
    assert federated.watch_gmac == central.watch_gmac == pytest.approx(3 * 14 * decoding / 1e9)
    assert federated.train_gmac > 0
    assert central.train_gmac == 0


def test_the_page_shows_it(whole: tuple[Path, Results], tmp_path: Path) -> None:
    write_report([whole[0]], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Forgetting" in page
    assert "federated" in page


def test_what_vehicles_learned_is_on_disk_and_decodes_what_they_sent(whole: tuple[Path, Results]) -> None:
    folder = whole[0] / "adapters"
    local = [f"local-night-vehicle-{vehicle}.safetensors" for vehicle in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == [
        "central-night.safetensors",
        "federated-night.safetensors",
        *local,
    ]
    decoded = 0
    for sharing in ("federated", "local", "central"):
        arm, plan = Arm(f"cae+{sharing}", POINT), Plan(scenario())
        images = Arrays(whole[0] / "stages" / plan.decode_key(arm), "images")
        with Store(whole[0] / "uploads.sqlite") as store:
            records = list(store.records(arm.codec, POINT, "delivered", payloads=True))
        for record, image in zip(records, images, strict=True):
            assert record.payload is not None
            if adapter := unpack(record.payload).adapter_hash:
                name = f"local-night-vehicle-{record.vehicle}" if sharing == "local" else f"{sharing}-night"
                codec = codec_named(f"cae+{folder / name}.safetensors")
                assert isinstance(codec, NeuralStill)
                assert codec.adapter_hash == adapter
                np.testing.assert_array_equal(codec.decode(record.payload), image)
                decoded += 1
    assert decoded > 3


def test_resuming_a_run_writes_the_same_adapters(whole: tuple[Path, Results]) -> None:
    before = {path.name: path.read_bytes() for path in (whole[0] / "adapters").iterdir()}
    (whole[0] / "adapters" / "federated-night.safetensors").unlink()
    assert execute(whole[0], resume=True).digest == whole[1].digest
    assert {path.name: path.read_bytes() for path in (whole[0] / "adapters").iterdir()} == before


def test_a_domain_s_name_that_no_codec_s_name_could_hold_is_replaced(tmp_path: Path) -> None:
    words = scenario().adaptation
    assert words is not None
    update = packed(unadapted(source_codec(words).model, with_residuals=False))
    exchanges: dict[tuple[int, Sharing, str], Exchange] = {
        (0, "federated", domain): Exchange(domain, [Equipped(vehicle, domain, 0, 0, update) for vehicle in range(2)])
        for domain in ("wet+dark, cold", "x" * 300)
    }
    write_adapters(words, exchanges, tmp_path / "adapters")
    wet, long = sorted((tmp_path / "adapters").iterdir())
    assert re.fullmatch(r"federated-wet_dark__cold-[0-9a-f]{12}\.safetensors", wet.name)
    assert re.fullmatch(r"federated-x{60}-[0-9a-f]{12}\.safetensors", long.name)
    assert Adapter.load(wet).description.domain == "wet+dark, cold"


class Interrupted(Exception):
    """Stands for whatever ends a run."""


def interrupted_at(job: int, counted: Callable[..., object]) -> type[LocalBackend]:
    """Return a backend that ends at the n-th job of a kind."""
    seen = [0]

    class Backend(LocalBackend):
        def map(self, function, items):  # type: ignore[no-untyped-def]
            for item in items:
                if function.__name__ == counted.__name__:
                    seen[0] += 1
                    if seen[0] == job:
                        raise Interrupted
                yield function(item)

    return Backend


@pytest.mark.parametrize("job", [2, 9])
def test_a_run_interrupted_in_a_training_ends_with_the_same_digest(
    job: int, whole: tuple[Path, Results], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        execute(tmp_path / "run", backend=interrupted_at(job, _trained))
    assert execute(tmp_path / "run", resume=True).digest == whole[1].digest


def _trained() -> None:
    """Stands for the job of that name."""


class Backwards(LocalBackend):
    """Computes jobs in another order, as several workers do."""

    def map(self, function, items) -> Iterator[object]:  # type: ignore[no-untyped-def, override]
        some = list(items)
        results = [function(item) for item in some[::-1]]
        return iter(results[::-1])


def test_the_order_of_work_changes_nothing(whole: tuple[Path, Results], tmp_path: Path) -> None:
    assert execute(tmp_path / "run", backend=Backwards).digest == whole[1].digest


class Poisoned(LocalBackend):
    """Vehicle 1 sends rubbish."""

    def map(self, function, items) -> Iterator[object]:  # type: ignore[no-untyped-def, override]
        for item in items:
            if function.__name__ == _trained.__name__ and item.lessons[0].vehicle == 1:
                yield b"RBU1 and rubbish", ""
            else:
                yield function(item)


def test_a_vehicle_that_sends_rubbish_changes_nothing_and_is_named(tmp_path: Path) -> None:
    settings = ("adaptation.sharing=[federated]", "adaptation.methods=[density]")
    results = execute(tmp_path / "run", *settings, backend=Poisoned)
    (note,) = results.adapter_sharing
    assert [round_note["accepted"] for round_note in note.rounds] == [[0, 2]] * 2
    assert all("damaged" in round_note["refused"]["1"] for round_note in note.rounds)
    assert results.adaptation[0].vehicles == 2


def test_without_quorum_the_fleet_keeps_its_source(tmp_path: Path) -> None:
    settings = ("adaptation.sharing=[federated]", "adaptation.methods=[density]", "adaptation.round_s=0.01")
    results = execute(tmp_path / "run", *settings)
    (row,) = results.adaptation
    assert (row.equipped, row.rounds, row.bd_rate_target, row.adapter_bytes) == (0, 0, 0.0, 0)
    source, federated = results.uploads
    assert federated.bpp == source.bpp
    assert not (tmp_path / "run" / "adapters").exists()
    assert results.lost_quorum


@pytest.mark.parametrize("name", ["hyperprior", "slimcae/96"])
def test_other_codecs_adapt_likewise(name: str, tmp_path: Path) -> None:
    codec = f"codecs=[{{name: {name}, points: [lambda=0.0067]}}]"
    settings = (f"adaptation.codec={name}", "adaptation.sharing=[federated]", "adaptation.methods=[cawf]")
    results = execute(tmp_path / "run", codec, *settings)
    (row,) = results.adaptation
    assert (row.equipped, row.rounds, row.bd_rate_source, row.old_payloads_bit_exact) == (3, 2, 0, 1)
    assert row.parameters_percent <= 3
    assert row.bd_rate_target != 0
    assert [upload.codec for upload in results.uploads] == [name, f"{name}+federated"]


REFUSED: Sequence[tuple[tuple[str, ...], str]] = [
    (("adaptation.codec=jpeg",), "choose from those in use, cae"),
    (("codecs=[{name: slimcae, points: ['width=192,lambda=0.0067']}]", "adaptation.codec=slimcae"), "slimcae"),
    (("adaptation.point=lambda=7",), "has no point lambda=7"),
    (("adaptation.methods=[finetune]",), "the fleet adapts by the first"),
    (("adaptation.server_gmac_per_s=null",), "server_gmac_per_s"),
    (("adaptation.sharing=[federated, federated]",), "more than once"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_words_that_cannot_be_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(YamlFileError, match=message):
        scenario(*settings)


def test_a_domain_without_frames_to_measure_on_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no test or reference frame is of the domain 'night'.*cameras\.test_domains"):
        execute(tmp_path / "run", "cameras.test_domains=[day]", "adaptation.sharing=[]")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_test_frames_without_a_domain_says_where_to_put_some(tmp_path: Path) -> None:
    for name in ("train/dry/0.png", "train/wet/0.png", "test/dry/0.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (128, 96)).save(path)
    cameras = f"{{kind: folder, images: {tmp_path}/train, test_images: {tmp_path}/test, domains: [dry, wet]}}"
    expected = r"of the domain 'wet'.*a subfolder wet of cameras\.test_images"
    with pytest.raises(DataError, match=expected):
        list(forecast(scenario("fleet.vehicles=1", "adaptation.quorum=1", f"cameras={cameras}")))


def test_where_no_vehicle_notices_a_new_domain_the_results_say_so_and_why(tmp_path: Path) -> None:
    short = ("fleet.vehicles=2", "cameras.frames_per_vehicle=4", "cameras.test_frames=2")
    results = execute(tmp_path / "run", "adaptation.sharing=[federated]", "adaptation.methods=[cawf]", *short)
    assert results.notes == [
        "nothing was adapted: 2 of 2 vehicles came into a new domain and none noticed; 2 saw too little of their first "
        "domain to know what is usual, fewer frames than the 3 of adaptation.drift.baseline_frames"
    ]
    assert (results.adaptation, results.adapter_sharing) == ([], [])
    assert not results.lost_quorum
    assert not (tmp_path / "run" / "adapters").exists()


@pytest.mark.parametrize(
    ("entered", "expected"),
    [
        (
            ("night",),
            "3 of 3 vehicles came into .* codec may serve it as well, or adaptation.drift.threshold is too high",
        ),
        ((), "nothing was adapted: each vehicle's drive is in one domain"),
    ],
)
def test_the_note_tells_a_codec_that_may_fit_from_drives_in_one_domain(
    entered: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    adaptation = CodecAdaptation(Plan(scenario()), Stages(tmp_path), LocalBackend(), Display(quiet=True))
    adaptation.watched = [Watched("day", (0,), (), entered, 1)] * 3
    adaptation.prepare()
    (note,) = adaptation.notes
    assert re.search(expected, note)


def test_a_crop_larger_than_the_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises((DataError, BackendError), match="crops of 128 pixels do not fit"):
        execute(tmp_path / "run", "adaptation.crop=128")


def test_what_is_kept_of_a_run_is_readable(whole: tuple[Path, Results]) -> None:
    (watched,) = (whole[0] / "stages").glob("watch-*")
    assert {entry["home"] for entry in json.loads((watched / "watched.json").read_text())} == {"day"}
    assert train_adapter.__doc__
