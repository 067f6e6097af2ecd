"""A source codec with an adapter: what travels, what is forgotten (nothing), and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roadbits.codecs import catalogue
from roadbits.codecs.adaptation.danice import RESIDUAL, Adapter, AdapterError, adapted, adapted_codec
from roadbits.codecs.adaptation.differentiable import run
from roadbits.codecs.adaptation.enhancement import ResidualPlace, Residuals, Tuned, default_places, num_weights
from roadbits.codecs.adaptation.training import AdaptationRecipe, AdaptationTraining
from roadbits.codecs.adaptation.warped import WarpedDensity
from roadbits.codecs.bitstream import BitstreamError, pack, unpack
from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Image, OperatingPoint
from roadbits.codecs.integer import ExactLayer
from roadbits.codecs.metrics import psnr
from roadbits.codecs.neural.model_file import FrozenModel, ModelFileError
from roadbits.codecs.neural.still import NeuralStill

RECIPE = AdaptationRecipe(steps=4, batch_size=2, crop=64)


def night(seed: int, height: int = 96, width: int = 128) -> Image:
    """Return a dark, calm scene with a few lights: unlike any photograph that the codecs were trained on."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(4, 30, height)[:, None, None] * np.array([1.0, 1.0, 1.3])
    image = np.broadcast_to(rows, (height, width, 3)) + rng.normal(0, 1, (height, width, 1))
    for top, left in rng.integers(0, min(height, width) - 8, (4, 2)):
        image = image.copy()
        image[top : top + 5, left : left + 7] += 150
    return np.clip(image, 0, 255).astype(np.uint8)


NIGHTS = [night(seed) for seed in range(4)]


@pytest.fixture(scope="module", params=["cae", "hyperprior", "slimcae/48"])
def source(request: pytest.FixtureRequest) -> NeuralStill:
    codec = codec_named(request.param)
    assert isinstance(codec, NeuralStill)
    return codec


@pytest.fixture(scope="module")
def adapter(source: NeuralStill) -> Adapter:
    return trained(source, RECIPE)[0]


def trained(source: NeuralStill, recipe: AdaptationRecipe) -> tuple[Adapter, list[float]]:
    residuals = Residuals(source.model)
    losses = list(AdaptationTraining(residuals, NIGHTS, recipe).run())
    return residuals.freeze("night", len(losses)), losses


def test_a_residual_adds_whole_steps_and_stays_within_bounds() -> None:
    weight = torch.tensor([[0.0, 3.0], [-2.0, 0.0]])[:, :, None, None]
    layer = ExactLayer(RESIDUAL, weight, torch.tensor([0.5, 1.0]), torch.tensor([0.25, 0.0]), torch.ones(()))
    x = torch.tensor([[10.0, 500.0], [1.0, -511.0]])[:, :, None, None]
    # 10 + round(0.5 * 3 * 500 + 0.25) is more than 511; 500 - 20; 1 - round(766.25) is less than -511; -511 - 2.
    assert layer(x.clone())[:, :, 0, 0].tolist() == [[511, 480], [-511, -511]]
    small = torch.tensor([[4.0, 1.0]])[:, :, None, None]
    # 4 + round(1.5 + 0.25); 1 - 8.
    assert layer(small)[:, :, 0, 0].tolist() == [[6, -7]]


def test_made_differentiable_a_transform_gives_the_exact_numbers(source: NeuralStill) -> None:
    position = source.model.description.trained[2]
    x = torch.from_numpy(night(7, 64, 128)).permute(2, 0, 1)[None].float()
    x = x.contiguous(memory_format=torch.channels_last)
    exact = source.model.g_a(x.clone(), position)
    torch.testing.assert_close(run(source.model.g_a, {}, x, position), exact, rtol=1e-5, atol=1e-4)
    steps = torch.round(torch.randn(1, source.model.g_s.num_inputs, 4, 4) * 40).clamp(-511, 511)
    steps = steps.contiguous(memory_format=torch.channels_last)
    pixels = run(source.model.g_s, {}, steps, position)
    assert (pixels - source.model.g_s(steps.clone(), position)).abs().max() <= 1


def test_an_adapter_is_small_by_default(source: NeuralStill) -> None:
    residuals = Residuals(source.model)
    size = sum(parameter.numel() for parameter in residuals.parameters())
    assert len(default_places(source.model)) > 0
    assert size <= 0.03 * num_weights(source.model) + 3 * residuals.density.channels + 1000


def test_residuals_stand_near_the_pixels_first() -> None:
    places = {f"{place.transform}-{place.behind}" for place in default_places(codec_named("cae").model)}
    assert places == {"g_s-4", "g_a-1", "g_s-2", "g_a-3"}


def test_before_its_first_step_an_adapter_changes_no_pixel(source: NeuralStill) -> None:
    codec = adapted_codec(source, Residuals(source.model).freeze("none"))
    for point in source.points[1::3]:
        theirs, ours = (each.decode(each.encode(NIGHTS[0], point)) for each in (source, codec))
        np.testing.assert_array_equal(ours, theirs)


def test_the_density_without_a_warp_is_the_source_s(source: NeuralStill) -> None:
    side = source.model.hyper.side if source.model.hyper else source.model.side
    density, position = WarpedDensity(source.model), source.model.description.trained[-1]
    symbols = torch.arange(-3, 4).float().expand(density.channels, -1)[None, :, None]
    with torch.no_grad():
        mass = density.likelihood(symbols, side.gain[position][None, :, None, None])[0, :, 0]
    tables, starts = source.model.tables, np.cumsum(source.model.tables.lengths)
    for channel in range(0, density.channels, 17):
        table = position * density.channels + channel
        stored = tables.frequencies[starts[table] - tables.lengths[table] : starts[table] - 1] / 2**16
        for symbol in range(-3, 4):
            place = symbol - tables.lowest[table]
            if 0 <= place < len(stored) and stored[place] > 0.01:
                assert mass[channel, symbol + 3].item() == pytest.approx(stored[place], rel=0.2)


def cost(codec: NeuralStill, point: OperatingPoint) -> float:
    """Return what adapters are trained for, with real bytes: bits per pixel and the error, weighted by lambda."""
    payloads = [codec.encode(image, point) for image in NIGHTS]
    errors = [
        np.mean((codec.decode(each) - image.astype(float)) ** 2) for each, image in zip(payloads, NIGHTS, strict=True)
    ]
    bits_per_pixel = [8 * len(each) / image[..., 0].size for each, image in zip(payloads, NIGHTS, strict=True)]
    return float(np.mean(bits_per_pixel) + dict(point.settings)["lambda"] * np.mean(errors))


def test_an_adapter_learns_its_domain_and_the_source_forgets_nothing(source: NeuralStill) -> None:
    point = source.points[2]
    before = [source.encode(image, point) for image in NIGHTS]
    pictures = [source.decode(payload) for payload in before]
    adapter, losses = trained(source, AdaptationRecipe(steps=40, batch_size=2, crop=64, density_rate=0.03))
    codec = adapted_codec(source, adapter)
    rounds = len(source.model.description.trained)
    assert np.mean(losses[-rounds:]) < np.mean(losses[:rounds])
    assert cost(codec, point) < cost(source, point)
    assert [source.encode(image, point) for image in NIGHTS] == before
    for payload, picture in zip(before, pictures, strict=True):
        np.testing.assert_array_equal(catalogue.decode(payload, [codec]), picture)


def test_a_payload_names_source_and_adapter_and_needs_both(source: NeuralStill, adapter: Adapter) -> None:
    codec = adapted_codec(source, adapter)
    payload = codec.encode(NIGHTS[0], codec.points[0])
    container = unpack(payload)
    assert (container.model_hash, container.adapter_hash) == (source.model_hash, adapter.hash)
    assert codec.name == f"{source.name}+night"
    np.testing.assert_array_equal(catalogue.decode(payload, [codec]), codec.decode(payload))
    with pytest.raises(BitstreamError, match=f"needs the adapter {adapter.hash.hex()} on the .* once that adapter"):
        catalogue.decode(payload)
    with pytest.raises(BitstreamError, match=f"needs the adapter {adapter.hash.hex()} .* has no adapter"):
        source.decode(payload)
    with pytest.raises(BitstreamError, match=f"needs no adapter .* has the adapter {adapter.hash.hex()}"):
        codec.decode(source.encode(NIGHTS[0], source.points[0]))


def test_a_file_holds_the_same_adapter(source: NeuralStill, adapter: Adapter, tmp_path: Path) -> None:
    adapter.save(tmp_path / "night.safetensors")
    again = Adapter.load(tmp_path / "night.safetensors")
    assert (again.hash, again.description) == (adapter.hash, adapter.description)
    codecs = [adapted_codec(source, each) for each in (adapter, again)]
    payloads = [codec.encode(NIGHTS[1], codec.points[1]) for codec in codecs]
    assert payloads[0] == payloads[1]


def test_a_codec_with_an_adapter_has_a_name_of_its_own(source: NeuralStill, adapter: Adapter, tmp_path: Path) -> None:
    file = tmp_path / "night.safetensors"
    adapter.save(file)
    codec = codec_named(f"{source.name}+{file}")
    assert (codec.name, codec.model_hash) == (f"{source.name}+{file}", source.model_hash)
    payload = codec.encode(NIGHTS[1], codec.points[1])
    with pytest.raises(BitstreamError, match="once that adapter is here"):
        catalogue.decode(payload)
    assert np.array_equal(catalogue.decode(payload, [codec]), codec.decode(payload))
    for name, reason in {
        f"jpeg+{file}": "one width",
        f"slimcae+{file}": "one width",
        f"slimcae/72+{file}": "belongs to the model",
        f"{codec.name}+{file}": "has the adapter",
        f"{source.name}+{tmp_path}/none.safetensors": "none.safetensors",
    }.items():
        with pytest.raises(ValueError, match=reason):
            codec_named(name)


def test_an_adapted_payload_decodes_alike_on_any_number_of_threads_and_without_onednn(
    source: NeuralStill, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, threads = adapted_codec(source, adapter), torch.get_num_threads()
    payload = codec.encode(NIGHTS[0], codec.points[2])
    picture = codec.decode(payload)
    try:
        torch.set_num_threads(2)
        assert codec.encode(NIGHTS[0], codec.points[2]) == payload
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        np.testing.assert_array_equal(codec.decode(payload), picture)
    finally:
        torch.set_num_threads(threads)


def test_a_training_repeats_to_the_bit(source: NeuralStill, adapter: Adapter) -> None:
    again = Residuals(source.model)
    training = AdaptationTraining(again, NIGHTS, RECIPE)
    list(training.run(2))
    list(training.run())
    assert again.freeze().hash == adapter.hash


def test_an_adapter_of_another_source_is_refused(source: NeuralStill, adapter: Adapter) -> None:
    other = codec_named("hyperprior" if source.name == "cae" else "cae")
    assert isinstance(other, NeuralStill)
    with pytest.raises(AdapterError, match=f"belongs to the model {source.model_hash.hex()}"):
        adapted(other.model, adapter)
    with pytest.raises(AdapterError, match="already"):
        adapted_codec(adapted_codec(source, adapter), adapter)


def test_damaged_and_foreign_files_are_refused(source: NeuralStill, adapter: Adapter, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="cannot use the weights"):
        Adapter.load(path)
    source.model.save(path)
    with pytest.raises(ModelFileError, match="cannot use the weights"):
        Adapter.load(path)
    with pytest.raises(ModelFileError, match="no file of weights"):
        Adapter.load(tmp_path / "none.safetensors")


def test_what_cannot_be_trained_on_is_refused(source: NeuralStill) -> None:
    with pytest.raises(ValueError, match="no image to adapt to"):
        AdaptationTraining(Residuals(source.model), [], RECIPE)
    with pytest.raises(ValueError, match="crops of 128 pixels do not fit into an image with a side of 96"):
        AdaptationTraining(Residuals(source.model), NIGHTS, AdaptationRecipe(crop=128))


def test_a_residual_behind_the_last_layer_is_refused(source: NeuralStill) -> None:
    place = ResidualPlace("g_a", len(source.model.g_a.layers) - 1)
    adapter = Residuals(source.model, [place]).freeze()
    with pytest.raises(AdapterError, match="does not fit its source: a residual behind layer"):
        adapted(source.model, adapter)


def test_fine_tuning_begins_as_the_source(source: NeuralStill) -> None:
    names = ["g_a", "g_s", "h_a", "h_s"]
    model = Tuned(source.model, names, moves_density=False).freeze()  # type: ignore[arg-type]
    codec, point = NeuralStill("tuned", model), source.points[2]
    codecs = source, codec
    payloads = [each.encode(NIGHTS[0], point) for each in codecs]
    # Weights are made whole anew, so a value that lay between two steps may be rounded the other way.
    theirs, ours = (
        psnr(each.decode(payload), NIGHTS[0]) for each, payload in zip((source, codec), payloads, strict=True)
    )
    assert ours == pytest.approx(theirs, abs=0.3)
    assert len(payloads[1]) == pytest.approx(len(payloads[0]), rel=0.02)


def test_weights_that_need_their_inputs_in_other_groups_come_back_out_of_a_file(tmp_path: Path) -> None:
    source = codec_named("cae").model
    tuned = Tuned(source, ["g_a", "g_s"], moves_density=False)
    with torch.no_grad():  # weights of one size share a sum's bound evenly, which is too little for each but in groups
        for name, parameter in tuned.named_parameters():
            if name.endswith("weight") and parameter.shape[2] > 1:
                parameter.copy_(parameter.abs().mean() * parameter.sign())
    model = tuned.freeze()
    model.save(tmp_path / "tuned.safetensors")
    before, tuned_to, loaded = (
        [layer.shape for transform in (each.g_a, each.g_s) for layer in transform.layers]
        for each in (source, model, FrozenModel.load(tmp_path / "tuned.safetensors"))
    )
    assert before != tuned_to
    assert loaded == tuned_to


def test_fine_tuning_forgets_where_an_adapter_does_not(source: NeuralStill) -> None:
    point = source.points[2]
    old = source.encode(NIGHTS[0], point)
    tuned = Tuned(source.model, ["g_s"], moves_density=False)
    recipe = AdaptationRecipe(steps=6, batch_size=2, crop=64, learning_rate=1e-3)
    list(AdaptationTraining(tuned, NIGHTS[1:], recipe).run())
    codec = NeuralStill("tuned", tuned.freeze())
    assert codec.model_hash != source.model_hash
    with pytest.raises(BitstreamError, match="needs the model"):
        codec.decode(old)
    relabelled = replace(unpack(old), model_hash=codec.model_hash)
    assert (codec.decode(pack(relabelled)) != source.decode(old)).any()


def test_only_what_may_move_moves(source: NeuralStill) -> None:
    tuned = Tuned(source.model, ["g_a"], moves_density=False)
    list(AdaptationTraining(tuned, NIGHTS, RECIPE).run())
    model = tuned.freeze()
    assert model.g_s is source.model.g_s
    assert model.tables is source.model.tables
    assert any(
        not torch.equal(ours.weight, theirs.weight)
        for ours, theirs in zip(model.g_a.layers, source.model.g_a.layers, strict=True)
    )


def test_replayed_images_are_drawn_beside_the_domain_s(source: NeuralStill) -> None:
    white = [np.full((96, 128, 3), 255, np.uint8)]
    training = AdaptationTraining(Residuals(source.model, []), NIGHTS, AdaptationRecipe(steps=99, crop=64), white)
    drawn = 0
    for _ in range(25):
        crops, is_replayed = training._batch()
        assert torch.equal(crops.amin(dim=(1, 2, 3)) == 255, is_replayed.flatten())
        drawn += int(is_replayed.sum())
        training.step += 1
    assert 30 < drawn < 70


def test_a_decoder_that_replays_latents_goes_on_to_read_old_payloads(source: NeuralStill) -> None:
    """Trained on white frames alone it spoils what it knew; with the source's own latents beside them it does not."""
    white, days = [np.full((96, 128, 3), 255, np.uint8)], NIGHTS[:3]
    point = source.points[2]
    old = [unpack(source.encode(image, point)) for image in days]
    quality = []
    for replayed in ([], days):
        tuned = Tuned(source.model, ["g_a", "g_s"], moves_density=False)
        recipe = AdaptationRecipe(steps=20, batch_size=4, crop=64, learning_rate=1e-4, replays_latents=True)
        list(AdaptationTraining(tuned, white, recipe, replayed).run())
        codec = NeuralStill("tuned", tuned.freeze())
        relabelled = [pack(replace(each, model_hash=codec.model_hash)) for each in old]
        quality.append(np.mean([psnr(codec.decode(each), image) for each, image in zip(relabelled, days, strict=True)]))
    forgot, replays = quality
    assert replays > forgot + 0.2


def test_from_scratch_nothing_is_known_any_more(source: NeuralStill) -> None:
    tuned = Tuned(source.model, ["g_a", "g_s"], moves_density=True)
    tuned.forget(seed=1)
    codec, point = NeuralStill("scratch", tuned.freeze()), source.points[2]
    known, forgotten = (psnr(each.decode(each.encode(NIGHTS[0], point)), NIGHTS[0]) for each in (source, codec))
    assert forgotten < known - 3
    for ours, theirs in zip(codec.model.g_a.layers, source.model.g_a.layers, strict=True):
        assert ours.weight.abs().sum() == pytest.approx(float(theirs.weight.abs().sum()), rel=0.5)
