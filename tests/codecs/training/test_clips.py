from pathlib import Path

import numpy as np
import pytest

from roadbits.codecs.codec import Clip, Image
from roadbits.codecs.training.clips import ClipSampler, moving_clip
from roadbits.codecs.training.crops import ImageCache, TrainingDataError


def photograph(height: int = 120, width: int = 160) -> Image:
    y, x = np.mgrid[:height, :width]
    return np.stack([127 + 100 * np.sin(x / (5 + k)) * np.cos(y / 9) for k in range(3)], 2).astype(np.uint8)


def numbered(clips: int, frames: int, side: int) -> Clip:
    """Return frames whose red tells the clip, whose green the frame, and whose blue the column."""
    frames_of = np.zeros((clips, frames, side, side, 3), np.uint8)
    frames_of[..., 0] = np.arange(clips)[:, None, None, None]
    frames_of[..., 1] = np.arange(frames)[:, None, None]
    frames_of[..., 2] = np.arange(side)
    return frames_of.reshape(-1, side, side, 3)


def cache(path: Path, frames: Clip) -> ImageCache:
    ImageCache.write(path, iter(frames))
    return ImageCache.open(path)


def test_a_moving_camera_sees_one_scene_that_changes_a_little() -> None:
    clips = [moving_clip(photograph(), 4, 64, np.random.default_rng(seed)) for seed in range(12)]
    for clip in clips:
        assert (clip.shape, clip.dtype) == ((4, 64, 64, 3), np.uint8)
    assert not np.array_equal(clips[0], clips[1])
    steps = [np.abs(clip[1].astype(int) - clip[0]).mean() for clip in clips]
    others = np.abs(clips[0][0].astype(int) - clips[1][0]).mean()
    assert min(steps) < 0.1 * others  # some stand still
    assert max(steps) > 1


def test_the_same_numbers_give_the_same_clip() -> None:
    first, again = (moving_clip(photograph(), 3, 64, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_photograph_smaller_than_a_frame_is_refused() -> None:
    with pytest.raises(TrainingDataError, match="120 x 160 pixels is smaller than frames of 128"):
        moving_clip(photograph(), 3, 128, np.random.default_rng(0))


def test_a_sample_is_three_frames_in_a_row_of_one_clip_from_one_place(tmp_path: Path) -> None:
    sampler = ClipSampler([cache(tmp_path / "a.bin", numbered(5, 6, 40))], [6], [1.0], 32, seed=1)
    batch = sampler.batch(0, 64).reshape(64, 3, 3, 32, 32)
    assert len(np.unique(batch[:, :, 0])) == 5
    for sample in batch:
        assert len(np.unique(sample[:, 0])) == 1
        order = sample[:, 1, 0, 0].astype(int)
        assert set(np.diff(order)) in ({1}, {-1})
        np.testing.assert_array_equal(sample[0, 2], sample[2, 2])
    directions = {int(sample[1, 1, 0, 0]) - int(sample[0, 1, 0, 0]) for sample in batch}
    mirrored = {int(sample[0, 2, 0, 1]) - int(sample[0, 2, 0, 0]) for sample in batch}
    assert directions == mirrored == {1, -1}


def test_a_step_always_has_the_same_batch_and_others_another(tmp_path: Path) -> None:
    opened = cache(tmp_path / "a.bin", numbered(5, 4, 40))
    one, same, other = (ClipSampler([opened], [4], [1.0], 32, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.batch(3, 4), same.batch(3, 4))
    assert not np.array_equal(one.batch(3, 4), one.batch(4, 4))
    assert not np.array_equal(one.batch(3, 4), other.batch(3, 4))


def test_sources_share_samples_by_weight(tmp_path: Path) -> None:
    light = numbered(1, 3, 32)
    light[..., 0] = 200
    caches = [cache(tmp_path / "a.bin", numbered(1, 3, 32)), cache(tmp_path / "b.bin", light)]
    batch = ClipSampler(caches, [3, 3], [3.0, 1.0], 32, seed=0).batch(0, 400)
    assert np.mean(batch[:, 0, 0, 0] == 200) == pytest.approx(0.25, abs=0.07)
    calibration = ClipSampler(caches, [3, 3], [3.0, 1.0], 32, seed=0).calibration_clips(8)
    assert [int(clip[0, 0, 0, 0]) for clip in calibration] == [0] * 6 + [200] * 2


@pytest.mark.parametrize(("length", "size"), [(2, 32), (4, 32), (6, 48)])
def test_clips_that_are_too_short_or_too_small_are_refused(tmp_path: Path, length: int, size: int) -> None:
    opened = cache(tmp_path / "a.bin", numbered(1, 6, 40))
    with pytest.raises(TrainingDataError, match="source 0 must hold clips of at least 3 frames"):
        ClipSampler([opened], [length], [1.0], size, seed=0)
