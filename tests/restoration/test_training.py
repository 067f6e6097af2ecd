from collections.abc import Sequence

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from roadbits.codecs.catalogue import codec_named
from roadbits.codecs.codec import Image
from roadbits.codecs.metrics import psnr
from roadbits.restoration.condition import Condition
from roadbits.restoration.network import RestorerSpec
from roadbits.restoration.restoring import RestorerWeightsError, open_restorer, restore
from roadbits.restoration.training import (
    Objective,
    PairCrops,
    Pairs,
    Recipe,
    RestorerTraining,
    RestorerTrainingError,
    View,
)

SPEC = RestorerSpec(("jpeg", "webp"), 8, (1, 1, 1))
SIZES = [3, 3]


def scene(seed: int, height: int = 72, width: int = 88) -> Image:
    """Return smooth hills with edges, which a codec spoils."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, 6, 7), dtype=np.float32))
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    smooth[:, :, width // 3 : width // 2] = 0.9
    return (255 * smooth).byte().permute(1, 2, 0).numpy()


def pairs_of(name: str, count: int = 3) -> Pairs:
    codec = codec_named(name)
    point, originals = codec.points[0], [scene(seed) for seed in range(count)]
    payloads = [codec.encode(image, point) for image in originals]
    conditions = [Condition(name, 0.0, 8 * len(payload) / (72 * 88)) for payload in payloads]
    return Pairs([codec.decode(payload) for payload in payloads], originals, conditions)


PAIRS = [pairs_of("jpeg"), pairs_of("webp")]


def sight(x: Tensor) -> Sequence[Tensor]:
    """Return two coarser views: a stand-in for a pretrained network."""
    return [functional.avg_pool2d(x, 2), functional.avg_pool2d(x, 4)]


def training(objective: Objective = "pixels", steps: int = 6, seed: int = 1, crop: int = 32) -> RestorerTraining:
    crops = PairCrops(PAIRS, SPEC.codecs, crop, seed)
    return RestorerTraining(SPEC, Recipe(objective, steps, 4, crop, seed=seed), crops, sight, SIZES)


def test_an_untrained_restorer_returns_its_input_of_any_size() -> None:
    restorer = open_restorer(SPEC, training().weights)
    for height, width in ((16, 16), (17, 33), (72, 88)):
        image = scene(3, height, width)
        np.testing.assert_array_equal(restore(restorer, image, Condition("jpeg", 0.5, 0.3)), image)


def test_a_trained_restorer_brings_images_nearer_to_their_originals() -> None:
    run = training(steps=60)
    losses = list(run.run(60))
    restorer = open_restorer(SPEC, run.weights)
    for pairs in PAIRS:
        for degraded, original, condition in zip(pairs.degraded, pairs.originals, pairs.conditions, strict=True):
            assert psnr(restore(restorer, degraded, condition), original) > psnr(degraded, original)
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_what_is_told_makes_a_difference() -> None:
    run = training(steps=60)
    list(run.run(60))
    restorer, image = open_restorer(SPEC, run.weights), PAIRS[0].degraded[0]
    told, wrong = (restore(restorer, image, Condition(codec, 0.0, 0.3)) for codec in SPEC.codecs)
    assert (told != wrong).any()


@pytest.mark.parametrize("objective", ["pixels", "mse", "perceptual", "gan", "task"])
def test_a_training_that_stopped_ends_with_the_same_bits(objective: Objective) -> None:
    whole = training(objective)
    list(whole.run(6))
    first = training(objective)
    list(first.run(3))
    second = training(objective)
    second.load(first.save())
    assert second.step == 3
    list(second.run(6))
    assert second.weights == whole.weights
    assert second.save() == whole.save()


def test_a_phase_begins_from_the_weights_of_another() -> None:
    first = training()
    list(first.run(6))
    second = training("gan")
    second.begin_from(first.weights)
    assert second.weights == first.weights
    with pytest.raises(RestorerTrainingError, match="no weights of this restorer"):
        second.begin_from(b"nothing")


def test_every_codec_and_point_is_visited_evenly_and_untold_at_times() -> None:
    crops = PairCrops(PAIRS, SPEC.codecs, 32, 0)
    told = torch.cat([crops.batch(step, 4)[2] for step in range(100)])
    known = told[:, 2]
    assert 0.8 < known.mean() < 0.97
    assert abs(told[:, 0].mean() - told[:, 1].mean()) < 0.05


def test_crops_of_both_images_are_the_same_part() -> None:
    same = [Pairs(some.originals, some.originals, some.conditions) for some in PAIRS]
    degraded, originals, _ = PairCrops(same, SPEC.codecs, 32, 0).batch(3, 8)
    assert torch.equal(degraded, originals)


def test_too_few_or_too_small_references_are_refused() -> None:
    with pytest.raises(ValueError, match="no reference frames"):
        PairCrops([Pairs([], [], [])], SPEC.codecs, 32, 0)
    with pytest.raises(ValueError, match="crops of 80 pixels do not fit into a reference frame with a side of 72"):
        PairCrops(PAIRS, SPEC.codecs, 80, 0)


def test_another_training_s_checkpoint_is_refused() -> None:
    checkpoint = training(seed=1).save()
    with pytest.raises(RestorerTrainingError, match="another training's"):
        training(seed=2).load(checkpoint)
    with pytest.raises(RestorerTrainingError, match="no checkpoint"):
        training().load(checkpoint[:100])


def test_a_loss_that_is_not_finite_stops_and_moves_nothing() -> None:
    run = training()
    list(run.run(2))
    before = run.weights
    with torch.no_grad():
        run.network.tail.bias.fill_(torch.nan)
    with pytest.raises(RestorerTrainingError, match=r"step 3 of 6: the loss is nan: lower restoration\.learning_rate"):
        list(run.run(3))
    assert run.weights == before


def test_an_objective_without_eyes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a network to see with"):
        RestorerTraining(SPEC, Recipe("gan", 6), PairCrops(PAIRS, SPEC.codecs, 32, 0), None, [])


def test_weights_that_are_damaged_are_refused() -> None:
    with pytest.raises(RestorerWeightsError, match="no weights of this restorer"):
        open_restorer(RestorerSpec(("jpeg",), 8, (1, 1, 1)), training().weights)
    run = training()
    with torch.no_grad():
        run._mean.head.weight.fill_(torch.inf)
    with pytest.raises(RestorerWeightsError, match=r"head\.weight of the restorer is not finite"):
        open_restorer(SPEC, run.weights)


def test_a_restorer_that_gives_no_numbers_is_told_instead_of_black_images() -> None:
    """Finite weights, as a last step that went too far leaves them."""
    run = training()
    for parameter in run.network.parameters():
        parameter.data.fill_(1e30)
    restorer = open_restorer(SPEC, save({name: value.contiguous() for name, value in run.network.state_dict().items()}))
    with pytest.raises(RestorerWeightsError, match="not finite: train it with a lower learning rate"):
        restore(restorer, scene(3), Condition("jpeg", 0.5, 0.3))


def test_a_critic_that_diverges_stops_the_training_and_is_kept_as_it_was() -> None:
    run, images = training("gan"), torch.rand(4, 3, 32, 32)
    assert run._critic is not None
    before = [parameter.clone() for parameter in run._critic.parameters()]
    seen = [level * float("inf") for level in sight(images)]
    with pytest.raises(RestorerTrainingError, match="critic's loss is"):
        run._judge(View(images, images, seen, sight(images)))
    assert all(map(torch.equal, before, run._critic.parameters()))
