from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from roadbits.codecs.codec import Image
from roadbits.codecs.training.crops import CropSampler, ImageCache, TrainingDataError, reduced


def coded(height: int, width: int, source: int = 0) -> Image:
    """Return an image whose pixels name their row, column and source."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    image[..., 2] = source
    return image


def cached(path: Path, *images: Image) -> ImageCache:
    ImageCache.write(path, images)
    return ImageCache.open(path)


def test_an_image_is_divided_by_each_factor_but_not_below_the_smallest_side() -> None:
    shapes = [image.shape for image in reduced(coded(200, 150), (1, 2, 2.5, 3), 60)]
    assert shapes == [(200, 150, 3), (100, 75, 3), (80, 60, 3)]


def test_a_factor_of_one_keeps_every_pixel() -> None:
    image = coded(70, 90)
    (same,) = reduced(image, (1,), 64)
    assert np.array_equal(same, image)


def test_a_reduced_image_is_smooth_between_the_pixels_of_the_large_one() -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    image[::2] = 200
    (half,) = reduced(image, (2,), 64)
    assert abs(half[8:-8].astype(int) - 100).max() <= 12


def test_a_cache_gives_back_every_image(tmp_path: Path) -> None:
    images = [coded(70, 90, 1), coded(64, 64, 2), coded(100, 65, 3)]
    cache = cached(tmp_path / "a.bin", *images)
    assert len(cache) == 3
    for index, image in enumerate(images):
        assert np.array_equal(cache.image(index), image)


def test_a_cache_without_images_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="no training images"):
        ImageCache.write(tmp_path / "a.bin", [])
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_middle_of_writing_leaves_no_file(tmp_path: Path) -> None:
    def images() -> Iterator[Image]:
        yield coded(64, 64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageCache.write(tmp_path / "a.bin", images())
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    cached(path, coded(64, 64))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TrainingDataError, match=r"a\.bin holds 12287 bytes, its index promises 12288"):
        ImageCache.open(path)


def test_the_digest_tells_pixels_and_shapes_apart(tmp_path: Path) -> None:
    image = coded(64, 80)
    other = image.copy()
    other[-1, -1, -1] += 1
    digests = [
        cached(tmp_path / f"{number}.bin", each).digest()
        for number, each in enumerate((image, image, other, image.reshape(80, 64, 3)))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_a_batch_depends_on_the_seed_and_the_step_alone(tmp_path: Path) -> None:
    caches = [cached(tmp_path / "a.bin", coded(200, 150)), cached(tmp_path / "b.bin", coded(100, 180, 1))]
    first = CropSampler(caches, [1, 1], 64, seed=5)
    later = CropSampler(caches, [1, 1], 64, seed=5)
    before = [first.batch(step, 2) for step in range(4)]
    assert np.array_equal(later.batch(3, 2), before[3])
    assert not np.array_equal(before[2], before[3])
    assert not np.array_equal(CropSampler(caches, [1, 1], 64, seed=6).batch(3, 2), before[3])


def test_the_crops_of_a_step_never_change() -> None:
    # Pinned: a checkpoint goes on with the same crops in every later version.
    rows = np.arange(200, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(rows[:, None], rows[None, :150], np.uint8(7)), -1).reshape(-1)
    cache = ImageCache(pixels, np.array([[200, 150]]), np.array([0]))
    batch = CropSampler([cache], [1.0], 64, seed=0).batch(11, 3)
    assert batch.shape == (3, 3, 64, 64)
    corners = [(int(crop[0, 0, 0]), int(crop[1, 0, 0]), int(crop[1, 0, 1])) for crop in batch]
    assert corners == [(63, 95, 94), (69, 112, 111), (97, 110, 109)]


def test_crops_are_windows_of_an_image_half_of_them_mirrored(tmp_path: Path) -> None:
    sampler = CropSampler([cached(tmp_path / "a.bin", coded(200, 150))], [1], 64, seed=0)
    mirrored = 0
    for crop in sampler.batch(0, 100):
        top, left = int(crop[0, 0, 0]), int(crop[1].min())
        window = coded(200, 150)[top : top + 64, left : left + 64]
        is_mirrored = crop[1, 0, 0] > crop[1, 0, 1]
        mirrored += is_mirrored
        assert np.array_equal(crop.transpose(1, 2, 0), window[:, ::-1] if is_mirrored else window)
    assert 30 < mirrored < 70


def test_sources_are_mixed_by_weight_and_images_by_the_root_of_their_area(tmp_path: Path) -> None:
    first = cached(tmp_path / "a.bin", coded(100, 100, 0), coded(100, 225, 1), coded(100, 63, 9))
    second = cached(tmp_path / "b.bin", coded(100, 100, 2))
    crops = CropSampler([first, second], [3, 1], 64, seed=0).batch(0, 1000)
    counts = np.bincount(crops[:, 2, 0, 0], minlength=10)
    assert counts[2] == pytest.approx(250, abs=45)
    assert counts[1] / counts[0] == pytest.approx(1.5, rel=0.2)
    assert counts[9] == 0, "a crop came from an image that is too small"


def test_the_busiest_of_several_crops_is_taken(tmp_path: Path) -> None:
    image = np.full((64, 640, 3), 90, np.uint8)
    image[:, 320:] = np.random.default_rng(0).integers(0, 256, (64, 320, 3), dtype=np.uint8)
    caches = [cached(tmp_path / "a.bin", image)]
    calm, busy = (CropSampler(caches, [1], 64, seed=0, busiest_of=num).batch(0, 200) for num in (1, 3))
    quiet = [float(np.mean([crop.std() < 1 for crop in crops])) for crops in (calm, busy)]
    assert quiet[0] == pytest.approx(0.44, abs=0.1)
    assert quiet[1] == pytest.approx(0.44**3, abs=0.06)


def test_a_decimated_crop_is_every_second_pixel_of_a_large_enough_image(tmp_path: Path) -> None:
    # Even pixels tell their place, odd ones are black.
    y, x = np.mgrid[:128, :160]
    image = np.stack([y, x, np.full_like(y, 7)], axis=2).astype(np.uint8)
    image[1::2] = image[:, 1::2] = 0
    ImageCache.write(tmp_path / "large.bin", [image])
    large = CropSampler([ImageCache.open(tmp_path / "large.bin")], [1.0], 48, seed=0, decimated=[1.0])
    for crop in large.batch(0, 8).transpose(0, 2, 3, 1):
        assert (crop[..., 2] == 7).all()
        assert (np.diff(crop[..., 0].astype(int), axis=0) == 2).all()
    ImageCache.write(tmp_path / "small.bin", [image[:95, :160]])
    small = CropSampler([ImageCache.open(tmp_path / "small.bin")], [1.0], 48, seed=0, decimated=[1.0])
    assert (small.batch(0, 8)[:, 2] == 0).any()


def test_a_share_of_the_crops_is_decimated(tmp_path: Path) -> None:
    image = np.zeros((128, 160, 3), np.uint8)
    image[::2, ::2] = 7
    ImageCache.write(tmp_path / "images.bin", [image])
    sampler = CropSampler([ImageCache.open(tmp_path / "images.bin")], [1.0], 48, seed=0, decimated=[0.3])
    batch = sampler.batch(0, 400)
    share = (batch == 7).all(axis=(1, 2, 3)).mean()
    assert 0.2 < share < 0.4


def test_a_source_whose_images_are_all_too_small_is_refused(tmp_path: Path) -> None:
    caches = [cached(tmp_path / "a.bin", coded(100, 100)), cached(tmp_path / "b.bin", coded(63, 200))]
    with pytest.raises(TrainingDataError, match="source 1 has no image of at least 64 x 64"):
        CropSampler(caches, [1, 1], 64, 0)


def test_calibration_images_are_always_the_same_and_shared_by_weight(tmp_path: Path) -> None:
    caches = [cached(tmp_path / "a.bin", coded(200, 100, 0)), cached(tmp_path / "b.bin", coded(90, 180, 1))]
    sampler = CropSampler(caches, [3, 1], 64, seed=0)
    images = sampler.calibration_images(8, 96)
    assert [int(image[0, 0, 2]) for image in images] == [0] * 6 + [1] * 2
    assert {image.shape for image in images[:6]} == {(96, 96, 3)}
    assert {image.shape for image in images[6:]} == {(90, 96, 3)}
    sampler.batch(3, 2)
    for image, again in zip(images, sampler.calibration_images(8, 96), strict=True):
        assert np.array_equal(image, again)
