from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from roadbits.codecs.codec import Clip, Image
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.still import NeuralStill
from roadbits.codecs.training.clips import LatentClips, LatentSampler, clips_of, moving_clip, parts_of
from roadbits.codecs.training.crops import ImageCache, TrainingDataError
from roadbits.codecs.training.freezing import freeze_widths


def photograph(height: int = 120, width: int = 160) -> Image:
    y, x = np.mgrid[:height, :width]
    return np.stack([127 + 100 * np.sin(x / (5 + k)) * np.cos(y / 9) for k in range(3)], 2).astype(np.uint8)


def still() -> SlimModel:
    torch.manual_seed(3)
    network = SlimCAE((4, 8), ((0.002,),) * 2)
    return freeze_widths(network, [photograph(64, 64)], steps=1)


def test_parts_lie_side_by_side_in_the_middle() -> None:
    clip = np.arange(2 * 70 * 100 * 3, dtype=np.int64).reshape(2, 70, 100, 3).astype(np.uint8)
    parts = parts_of(clip, 32)
    assert len(parts) == 6
    np.testing.assert_array_equal(parts[0], clip[:, 3:35, 2:34])
    np.testing.assert_array_equal(parts[5], clip[:, 35:67, 66:98])
    with pytest.raises(TrainingDataError, match="no part of 80 x 80 pixels fits into frames of 70 x 100"):
        parts_of(clip, 80)


def test_a_cache_holds_clip_after_clip(tmp_path: Path) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 9, 3)).astype(np.uint8)
    ImageCache.write(tmp_path / "a.bin", iter(clips.reshape(-1, 8, 9, 3)))
    cache = ImageCache.open(tmp_path / "a.bin")
    np.testing.assert_array_equal(list(clips_of(cache, 4)), clips)
    with pytest.raises(TrainingDataError, match="expected clips of 5 frames, got 12 frames"):
        list(clips_of(cache, 5))


def test_latents_are_those_of_the_codec_at_every_width(tmp_path: Path) -> None:
    model = still()
    clips = [moving_clip(photograph(), 3, 64, np.random.default_rng(seed)) for seed in range(2)]
    LatentClips.write(tmp_path / "latents.npy", model, iter(clips), 2)
    values = LatentClips.open(tmp_path / "latents.npy").values
    assert (values.shape, values.dtype) == ((2, 3, 12, 4, 4), np.float16)
    for width, channels in ((4, slice(0, 4)), (8, slice(4, 12))):
        codec = NeuralStill("cae", model.of_width(width))
        for k, clip in enumerate(clips):
            expected = [codec.analysed(image, 0)[0].numpy() for image in clip]
            np.testing.assert_allclose(values[k, :, channels], expected, rtol=1e-3, atol=1e-3)


def test_an_interrupted_file_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[Clip]:
        yield moving_clip(photograph(), 3, 64, np.random.default_rng(0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LatentClips.write(tmp_path / "latents.npy", still(), broken(), 2)
    assert not list(tmp_path.iterdir())


def numbered(clips: int, frames: int) -> LatentClips:
    """Return latents whose first channel tells the clip, whose second the frame."""
    values = np.zeros((clips, frames, 2, 1, 1), np.float16)
    values[:, :, 0, 0, 0] = np.arange(clips)[:, None]
    values[:, :, 1, 0, 0] = np.arange(frames)
    return LatentClips(values)


def test_a_sample_is_three_frames_in_a_row_of_one_clip() -> None:
    batch = LatentSampler([numbered(5, 6)], [1.0], seed=1).batch(0, 64)[..., 0, 0]
    assert batch.shape == (64, 3, 2)
    assert len(np.unique(batch[:, :, 0])) == 5
    directions = set()
    for sample in batch:
        assert len(np.unique(sample[:, 0])) == 1
        steps = set(np.diff(sample[:, 1].astype(int)))
        assert steps in ({1}, {-1})
        directions |= steps
    assert directions == {1, -1}


def test_a_step_always_has_the_same_batch_and_others_another() -> None:
    one, same, other = (LatentSampler([numbered(5, 4)], [1.0], seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.batch(3, 8), same.batch(3, 8))
    assert not np.array_equal(one.batch(3, 8), one.batch(4, 8))
    assert not np.array_equal(one.batch(3, 8), other.batch(3, 8))


def test_sources_share_samples_by_weight() -> None:
    light = LatentClips(numbered(1, 3).values + np.float16(100))
    batch = LatentSampler([numbered(1, 3), light], [3.0, 1.0], seed=0).batch(0, 400)
    assert np.mean(batch[:, 0, 0, 0, 0] == 100) == pytest.approx(0.25, abs=0.07)
