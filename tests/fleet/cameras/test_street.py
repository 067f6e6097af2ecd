import ctypes
import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from roadbits.fleet.cameras.classes import CAMVID11
from roadbits.fleet.cameras.frame import DataError, Frame
from roadbits.fleet.cameras.street import DOMAINS, StreetSource, renderer


def _source(
    domain: str = "day",
    *,
    split: str = "train",
    vehicle: int = 0,
    num_frames: int = 40,
    interval_s: float = 1.0,
    height: int = 96,
    width: int = 128,
) -> StreetSource:
    return StreetSource(
        seed=5,
        split=split,
        vehicle=vehicle,
        domains=(domain,),
        num_frames=num_frames,
        interval_s=interval_s,
        height=height,
        width=width,
    )


def _bytes(frame: Frame) -> bytes:
    assert frame.label is not None
    return frame.image.tobytes() + frame.label.tobytes()


def _luma(frame: Frame) -> np.ndarray:
    return frame.image @ np.array([0.299, 0.587, 0.114])


def test_same_seed_gives_same_bytes() -> None:
    assert _bytes(_source().frame(3)) == _bytes(_source().frame(3))


def test_a_frame_does_not_depend_on_what_was_drawn_before() -> None:
    expected = {index: _bytes(_source().frame(index)) for index in (0, 9, 30)}
    _source("night-highway", vehicle=4).frame(17)
    _source(vehicle=1, height=40, width=72).frame(2)
    for index in (30, 0, 9):
        assert _bytes(_source().frame(index)) == expected[index]


def test_a_frame_survives_the_loss_of_every_cache() -> None:
    expected = _bytes(_source("rain").frame(6))
    for vehicle in range(12):
        _source(split="reference", vehicle=vehicle).frame(0)
    assert _bytes(_source("rain").frame(6)) == expected


def test_another_process_draws_the_same_frame() -> None:
    program = (
        "import hashlib\n"
        "from roadbits.fleet.cameras.street import StreetSource\n"
        "source = StreetSource(seed=5, split='train', vehicle=2, domains=('dusk',), num_frames=9, interval_s=0.5,"
        " height=96, width=128)\n"
        "frame = source.frame(7)\n"
        "print(hashlib.sha256(frame.image.tobytes() + frame.label.tobytes()).hexdigest())\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    source = _source("dusk", vehicle=2, num_frames=9, interval_s=0.5)
    assert printed.strip() == hashlib.sha256(_bytes(source.frame(7))).hexdigest()


def test_importing_the_street_does_not_import_panda3d() -> None:
    program = "import sys, roadbits.fleet.cameras.street; print('panda3d' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "False"


def test_labels_hold_classes_only_and_all_eleven_occur() -> None:
    seen: set[int] = set()
    for vehicle, index in itertools.product(range(4), range(0, 40, 10)):
        frame = _source(vehicle=vehicle).frame(index)
        assert frame.label is not None
        assert frame.label.dtype == np.uint8
        seen |= set(np.unique(frame.label).tolist())
    assert seen == set(range(len(CAMVID11)))


@pytest.mark.parametrize("axis", [0, 1])
def test_labels_change_exactly_where_the_picture_does(axis: int) -> None:
    profile = np.zeros(5)
    for vehicle in range(3):
        frame = _source(vehicle=vehicle, height=180, width=240).frame(4)
        assert frame.label is not None
        border = np.diff(frame.label.astype(int), axis=axis) != 0
        step = np.abs(np.diff(_luma(frame), axis=axis))
        profile += [step[np.roll(border, shift, axis=axis)].mean() for shift in (-2, -1, 0, 1, 2)]
    assert profile[2] > 1.25 * np.delete(profile, 2).max()


def test_sky_is_above_and_road_below() -> None:
    label = _source().frame(0).label
    assert label is not None
    sky, road = (np.nonzero(label == CAMVID11.names.index(name))[0].mean() for name in ("sky", "road"))
    assert sky < 40 < 60 < road


def test_splits_vehicles_and_places_are_different_streets() -> None:
    labels = [
        _source(split=split, vehicle=vehicle).frame(0).label for split in ("train", "test") for vehicle in range(2)
    ]
    labels.append(_source("day-highway").frame(0).label)
    for first, second in itertools.combinations(labels, 2):
        assert first is not None
        assert second is not None
        assert (first != second).mean() > 0.05


def test_weathers_differ_in_light_and_contrast_but_not_in_labels() -> None:
    frames = {domain: _source(domain, vehicle=1).frame(5) for domain in ("day", "dusk", "rain", "fog", "night")}
    means = {domain: float(_luma(frame).mean()) for domain, frame in frames.items()}
    spreads = {domain: float(_luma(frame).std()) for domain, frame in frames.items()}
    assert means["night"] + 10 < means["dusk"] < means["rain"] - 10 < means["day"]
    assert spreads["fog"] < 0.85 * spreads["day"]
    assert spreads["night"] < 0.7 * spreads["day"]
    labels = [_bytes(frame)[-96 * 128 :] for frame in frames.values()]
    assert len(set(labels)) == 1


def test_fog_veils_the_far_road_more_than_the_near_road() -> None:
    day, fog = (_source(domain, vehicle=1).frame(5) for domain in ("day", "fog"))
    road = day.label == CAMVID11.names.index("road")
    gain = _luma(fog) - _luma(day)
    far, near = gain[52:58][road[52:58]], gain[86:][road[86:]]
    assert far.mean() > near.mean() + 15


def test_smooth_video_changes_little_from_frame_to_frame_and_much_over_a_second() -> None:
    smooth, slow = _source(interval_s=0.04), _source(interval_s=1.0)
    start, soon, later = (_luma(frame).ravel() for frame in (smooth.frame(0), smooth.frame(1), slow.frame(1)))
    assert not np.array_equal(start, soon)
    assert np.corrcoef(start, soon)[0, 1] > 0.85
    assert np.corrcoef(start, later)[0, 1] < np.corrcoef(start, soon)[0, 1]


def test_domains_divide_the_drive_in_order() -> None:
    source = StreetSource(
        seed=1, split="test", vehicle=3, domains=("day", "fog"), num_frames=5, interval_s=2.0, height=32, width=32
    )
    frames = list(source)
    assert [frame.domain for frame in frames] == ["day", "day", "day", "fog", "fog"]
    assert [frame.index for frame in frames] == list(range(5)) == list(range(len(source)))
    assert [frame.time_s for frame in frames] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert {frame.camera for frame in frames} == {"vehicle-03"}
    assert source.classes is CAMVID11
    assert source.split == "test"


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 53), (181, 17), (16, 301)])
@pytest.mark.parametrize("domain", ["rain", "night-highway"])
def test_any_size_is_drawn(domain: str, height: int, width: int) -> None:
    frame = _source(domain, height=height, width=width).frame(1)
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    assert frame.label is not None
    assert frame.label.shape == (height, width)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_is_drawn(domain: str) -> None:
    assert _source(domain).frame(2).image.std() > 5


def test_a_drive_may_be_long() -> None:
    frame = _source(num_frames=10**6).frame(10**6 - 1)
    assert frame.label is not None
    assert len(np.unique(frame.label)) > 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domains": ("snow",)}, "unknown domain 'snow'; choose from day, dusk"),
        ({"domains": ()}, "domains must name at least one"),
        ({"height": 15}, "height must be in 16..4096, got 15"),
        ({"width": 4097}, "width must be in 16..4096, got 4097"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"interval_s": 0.0}, "interval_s must be a finite number greater than 0, got 0.0"),
        ({"vehicle": -1}, "vehicle must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"seed": 1, "split": "train", "vehicle": 0, "domains": ("day",), "num_frames": 2}
    arguments |= {"interval_s": 1.0} | change
    with pytest.raises(ValueError, match=message.replace("..", r"\.\.")):
        StreetSource(**arguments)  # type: ignore[arg-type]


def test_a_frame_outside_the_drive_is_refused() -> None:
    with pytest.raises(IndexError, match=r"frame 40 is not in 0\.\.39"):
        _source().frame(40)


def test_a_missing_system_library_names_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(DataError, match=r"libX11\.so\.6.*apt-get install libx11-6.*dnf install libX11"):
        renderer.Engine()
