import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from roadbits.codecs.bitstream import HASH_BYTES
from roadbits.codecs.neural.model_file import (
    ContextWords,
    FrozenModel,
    ModelFileError,
    open_tensors,
    save_tensors,
    stored_bytes,
)

Tiny = Callable[..., FrozenModel]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def rewrite(
    path: Path, tensors: Mapping[str, Tensor | None] | None = None, described: Mapping[str, object] | None = None
) -> None:
    """Replace some of a file's tensors (None: leave out) and some fields of its description."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["roadbits"])
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    merged = {**parts, **(tensors or {})}
    save_file(
        {name: value for name, value in merged.items() if value is not None},
        path,
        {"roadbits": json.dumps({**metadata, **(described or {})})},
    )


def other(tensor: Tensor, name: str) -> Tensor:
    """Return a tensor of the same kind that differs by as little as a sound model can."""
    # Numpy's, as torch cannot change single numbers of uint16.
    changed = tensor.numpy().copy().reshape(-1)
    if name.endswith(("frequencies", "lengths")):
        # The first two unequal entries side by side: of one table, which still sums; or two lengths.
        at = int(np.flatnonzero(changed[:-1] != changed[1:])[0])
        changed[[at, at + 1]] = changed[[at + 1, at]]
    elif np.issubdtype(changed.dtype, np.floating):
        changed[-1] = np.nextafter(changed[-1], np.float32(1e9))
    else:
        changed[-1] += -1 if changed[-1] > 0 else 1
    return torch.from_numpy(changed.reshape(tensor.shape))


def test_a_model_survives_its_file(model: FrozenModel, path: Path) -> None:
    model.save(path)
    again = FrozenModel.load(path)
    assert again.hash == model.hash
    assert len(model.hash) == HASH_BYTES
    assert again.description == model.description
    assert again.num_bytes == model.num_bytes
    ours, theirs = model.tensors(), again.tensors()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_is_little_larger_than_its_numbers(model: FrozenModel, path: Path) -> None:
    model.save(path)
    assert model.num_bytes < path.stat().st_size < model.num_bytes + 16_384


def test_a_file_written_twice_is_the_same(model: FrozenModel, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_hashes_of_these_models_are_these(tiny: Tiny) -> None:
    expected = {
        "cae": "56abc7d8a24d",
        "mean-scale": "b666d090a8ba",
        "scale-only": "76cc02efffc3",
        "scale-context": "02c063ef48e4",
        "mean-context": "3c32fc9e8cd3",
    }
    assert {design: tiny(design).hash.hex() for design in expected} == expected


def test_the_hash_is_the_same_in_another_process(tiny: Tiny, tmp_path: Path) -> None:
    models = [tiny(design) for design in ("cae", "mean-scale", "scale-only", "scale-context", "mean-context")]
    paths = [tmp_path / str(number) for number in range(len(models))]
    for model, path in zip(models, paths, strict=True):
        model.save(path)
    program = (
        "import sys; from pathlib import Path; from roadbits.codecs.neural.model_file import FrozenModel; "
        "[print(FrozenModel.load(Path(path)).hash.hex()) for path in sys.argv[1:]]"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert run.stdout.split() == [model.hash.hex() for model in models]


@pytest.mark.parametrize("design", ["cae", "mean-scale", "scale-context", "mean-context"])
def test_the_hash_changes_with_any_tensor(design: str, tiny: Tiny, path: Path) -> None:
    model = tiny(design)
    seen = {model.hash}
    for name, tensor in model.tensors().items():
        model.save(path)
        rewrite(path, {name: other(tensor, name)})
        try:
            changed = FrozenModel.load(path)
        except ModelFileError:
            # Another division into tables leaves some that do not sum, another order names a channel twice, and other
            # parts are of more or fewer tables.
            assert name.endswith(("lengths", "order", "parts"))
            continue
        assert changed.hash not in seen, name
        seen.add(changed.hash)


def test_the_hash_changes_with_every_field_of_the_description(tiny: Tiny) -> None:
    model = tiny("mean-scale")
    description = model.description
    layers = description.transforms
    fewer = {name: part for name, part in layers.items() if name != "h_a"}
    wider = {**layers, "g_a": (layers["g_a"][0].model_copy(update={"stride": 2}), *layers["g_a"][1:])}
    changes: tuple[dict[str, object], ...] = (
        {"format": "roadbits-still-2"},
        {"architecture": "cae"},
        {"lambdas": (*description.lambdas[:-1], 0.0161)},
        {"trained": (0, 4)},
        {"method": "mae"},
        {"bin_widths": (1.0,) * len(description.lambdas)},
        {"transforms": fewer},
        {"transforms": wider},
        {"means": False},
        {"steps": 1},
        {"context": ContextWords(groups=(3, 5), networks=())},
    )
    assert {field for change in changes for field in change} == set(type(description).model_fields)
    # Not through the constructor, which refuses some of these.
    hashes = set()
    for change in changes:
        twin = object.__new__(FrozenModel)
        vars(twin).update({**vars(model), "description": description.model_copy(update=change)})
        vars(twin).pop("hash", None)
        hashes.add(twin.hash)
    assert len(hashes | {model.hash}) == len(changes) + 1


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(ModelFileError, match=f"no file of weights {path}"):
        FrozenModel.load(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no file of weights"):
        FrozenModel.load(tmp_path)


@pytest.mark.parametrize("text", ["", "a", "name: cae\n" * 100, "{}", "\x00" * 8, "\x00" * 4000])
def test_what_is_no_file_of_tensors_is_refused(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(ModelFileError, match=f"cannot use the weights in {path}"):
        FrozenModel.load(path)


def test_a_truncated_file_is_refused(tiny: Tiny, path: Path) -> None:
    tiny().save(path)
    whole = path.read_bytes()
    for kept in (*range(0, len(whole), len(whole) // 40), len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelFileError, match="cannot use the weights"):
            FrozenModel.load(path)


def test_a_checkpoint_of_a_training_is_refused_with_what_to_do(path: Path) -> None:
    save_file({"network/g_a.0.weight": torch.zeros(3)}, path, {"step": "5", "identity": "{}"})
    with pytest.raises(ModelFileError, match="a training's checkpoint must be frozen first"):
        FrozenModel.load(path)
    save_file({"network/g_a.0.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelFileError, match="it is no frozen model"):
        FrozenModel.load(path)


@pytest.mark.parametrize(
    "name", ["g_a.0.multiplier", "g_a.1.offset", "g_s.3.square", "y.gain", "y.entry", "z.gain", "z.entry"]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float, tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    model.save(path)
    damaged = model.tensors()[name].clone()
    damaged.view(-1)[0] = value
    rewrite(path, {name: damaged})
    with pytest.raises(ModelFileError, match=r"NaN|finite"):
        FrozenModel.load(path)


@pytest.mark.parametrize("name", ["h_a.entry", "scales.thresholds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_second_stage_that_is_not_finite_is_refused(name: str, value: float, tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    model.save(path)
    damaged = model.tensors()[name].clone()
    damaged[0] = value
    rewrite(path, {name: damaged})
    with pytest.raises(ModelFileError, match="a finite entry of h_a and thresholds of scales that rise"):
        FrozenModel.load(path)


def test_thresholds_that_fall_are_refused(tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    model.save(path)
    rewrite(path, {"scales.thresholds": model.tensors()["scales.thresholds"].flip(0).contiguous()})
    with pytest.raises(ModelFileError, match="thresholds of scales that rise"):
        FrozenModel.load(path)


@pytest.mark.parametrize("name", ["y.gain", "z.entry"])
def test_gains_of_another_type_or_width_are_refused(name: str, tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    right = model.tensors()[name]
    for wrong in (right.double(), right[:, :-1].contiguous()):
        model.save(path)
        rewrite(path, {name: wrong})
        with pytest.raises(ModelFileError, match="gains and entries of one shape and of float32"):
            FrozenModel.load(path)


@pytest.mark.parametrize("name", ["tables.frequencies", "scales.frequencies"])
def test_tables_that_do_not_sum_are_refused(name: str, tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    model.save(path)
    frequencies = model.tensors()[name].to(torch.int32)
    frequencies[0] += 1
    rewrite(path, {name: frequencies.to(torch.uint16)})
    with pytest.raises(ModelFileError, match="entropy table 0 sums to 65537, expected 65536"):
        FrozenModel.load(path)


def test_every_missing_tensor_is_named(tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    for name in model.tensors():
        model.save(path)
        rewrite(path, {name: None})
        with pytest.raises(ModelFileError, match=name):
            FrozenModel.load(path)


def test_weights_that_could_overflow_are_refused(tiny: Tiny, path: Path) -> None:
    model = tiny()
    model.save(path)
    weight = torch.full_like(model.tensors()["g_a.0.weight"], 32767)
    rewrite(path, {"g_a.0.weight": weight})
    with pytest.raises(ModelFileError, match="sums of an exact layer may reach"):
        FrozenModel.load(path)


def test_numbers_of_another_type_are_refused(tiny: Tiny, path: Path) -> None:
    model = tiny()
    model.save(path)
    rewrite(path, {"tables.lengths": model.tensors()["tables.lengths"].to(torch.bfloat16)})
    with pytest.raises(ModelFileError, match="cannot use the weights"):
        FrozenModel.load(path)


@pytest.mark.parametrize("design", ["cae", "mean-scale"])
@pytest.mark.parametrize("lambdas", [[0.001], [0.001, 0.002, 0.004, 0.008], [0.001, 0.002, 0.004, 0.008, 0.016, 0.032]])
def test_another_number_of_positions_is_refused(design: str, lambdas: list[float], tiny: Tiny, path: Path) -> None:
    tiny(design).save(path)
    rewrite(path, described={"lambdas": lambdas, "trained": [0]})
    with pytest.raises(ModelFileError, match=f"expected finite gains for {len(lambdas)} positions"):
        FrozenModel.load(path)


def test_a_wrong_number_of_tables_is_refused(tiny: Tiny, path: Path) -> None:
    model = tiny()
    model.save(path)
    gain = model.side.gain[:, :-1].contiguous()
    rewrite(path, {"y.gain": gain, "y.entry": gain.clone()})
    with pytest.raises(ModelFileError, match="expected 35 entropy tables, got 40"):
        FrozenModel.load(path)


def test_another_number_of_gaussians_than_thresholds_is_refused(tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    model.save(path)
    rewrite(path, {"scales.thresholds": model.tensors()["scales.thresholds"][:-1]})
    with pytest.raises(ModelFileError, match="one more Gaussian table than thresholds"):
        FrozenModel.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", "roadbits-still-2"),
        ("architecture", "scaling"),
        ("architecture", "hyperprior"),
        ("lambdas", []),
        ("lambdas", "many"),
        ("lambdas", [0.016, 0.008, 0.004, 0.002, 0.001]),
        ("lambdas", [0.001, 0.002, 0.002, 0.008, 0.016]),
        ("lambdas", [0.0, 0.002, 0.004, 0.008, 0.016]),
        ("lambdas", [-0.1, 0.002, 0.004, 0.008, 0.016]),
        ("trained", [5]),
        ("trained", [-1]),
        ("trained", []),
        ("transforms", {}),
        ("transforms", {"g_a": [{"kind": "sideways"}]}),
        ("colour", "blue"),
    ],
)
def test_an_unsound_description_is_refused(field: str, value: object, tiny: Tiny, path: Path) -> None:
    tiny().save(path)
    rewrite(path, described={field: value})
    with pytest.raises(ModelFileError, match="cannot use the weights"):
        FrozenModel.load(path)


def test_large_weights_are_packed_and_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        "wide": torch.from_numpy(rng.normal(0, 50, (80, 40, 5, 5)).astype(np.int32)),
        "ends": torch.arange(-(1 << 15) + 1, 1 << 15).repeat(2),
        "small": torch.arange(-5, 5),
    }
    path = tmp_path / "packed.safetensors"
    save_tensors(path, "text", tensors)
    assert path.stat().st_size < 0.85 * stored_bytes(tensors)
    with open_tensors(path) as (text, found):
        assert text == "text"
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name].long(), tensors[name].long()) for name in tensors)


@pytest.mark.parametrize("damage", ["cut", "longer", "other bytes", "no low bytes"])
def test_damaged_packing_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    save_tensors(path, "text", {"wide": torch.arange(1 << 16) % 999})
    tensors = load_file(path)
    high = tensors["wide~high"].numpy()
    changes: dict[str, dict[str, torch.Tensor | None]] = {
        "cut": {"wide~high": torch.from_numpy(high[:-9].copy())},
        "longer": {"wide~high": torch.from_numpy(np.frombuffer(zlib.compress(bytes(1 << 20)), np.uint8).copy())},
        "other bytes": {"wide~high": torch.from_numpy(high[::-1].copy())},
        "no low bytes": {"wide": None},
    }
    kept = {name: tensor for name, tensor in (tensors | changes[damage]).items() if tensor is not None}
    save_file(kept, path, {"roadbits": "text"})
    with pytest.raises(ModelFileError, match="cannot use the weights"), open_tensors(path):
        pass


@pytest.mark.parametrize("name", ["scales.thresholds", "h_a.entry"])
def test_a_hyperprior_s_numbers_of_another_type_or_shape_are_refused(name: str, tiny: Tiny, path: Path) -> None:
    model = tiny("mean-scale")
    right = model.tensors()[name]
    for wrong in (right.double(), right.half()):
        model.save(path)
        rewrite(path, {name: wrong})
        with pytest.raises(ModelFileError, match="in float32"):
            FrozenModel.load(path)
    model.save(path)
    rewrite(path, {"scales.thresholds": model.tensors()["scales.thresholds"][:, None].contiguous()})
    with pytest.raises(ModelFileError, match="thresholds of scales in a row"):
        FrozenModel.load(path)
