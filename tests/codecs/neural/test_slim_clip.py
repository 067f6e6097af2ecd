import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roadbits.codecs.bitstream import BitstreamError, pack, unpack
from roadbits.codecs.codec import Clip, OperatingPoint
from roadbits.codecs.entropy import gaussian_symbol_bits
from roadbits.codecs.neural.model_file import ModelFileError
from roadbits.codecs.neural.slim_clip import GOP_FRAMES, SlimClip
from roadbits.codecs.neural.slim_model import SlimModel
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.slimcae import SlimCAE
from roadbits.codecs.neural.slimhyperprior import SlimHyperprior
from roadbits.codecs.neural.slimvc import SlimTemporalPrior, as_steps
from roadbits.codecs.neural.still import NeuralStill, latents_of
from roadbits.codecs.neural.temporal_model import TemporalModel
from roadbits.codecs.training.freezing import freeze_widths
from roadbits.codecs.training.temporal_freezing import freeze_prior

WIDTHS, CHANNELS = (16, 32), (8, 16)
LEVELS = ((0.002, 0.02),) * 2
ESCAPE_BITS = 12
"""About what a value costs that lies too far from its mean for a table."""


def drive(frames: int, height: int = 64, width: int = 96, seed: int = 5) -> Clip:
    """Return a coarse picture that moves to the right, with new noise in every frame."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 8) + 1, -(-width // 8) + frames
    coarse = np.kron(rng.normal(0, 45, (rows, columns, 3)), np.ones((8, 8, 1)))
    seen = [coarse[:height, 2 * k : 2 * k + width] + rng.normal(0, 2, (height, width, 3)) for k in range(frames)]
    return np.clip(np.stack(seen) + 127, 0, 255).astype(np.uint8)


def still_model() -> SlimModel:
    torch.manual_seed(3)
    network = SlimCAE(WIDTHS, LEVELS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("log_gain"):
                parameter.add_(4.0)
            if name.endswith("log_inverse"):
                parameter.sub_(4.0)
    return freeze_widths(network, list(drive(2, 128, 192)), steps=5)


def trained(still: SlimModel, steps: int = 60) -> SlimTemporalPrior:
    """Return a temporal entropy model that has learned a little, in both widths."""
    torch.manual_seed(4)
    network = SlimTemporalPrior(still, CHANNELS)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        frames = np.concatenate([drive(3, seed=10 * step + k) for k in range(4)]).transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).float()
        y = torch.cat([model.g_a(pixels) for model in still.models], 1)
        x = y.reshape(4, 3, *y.shape[1:])
        loss = sum((network(x, torch.tensor([0, 1, 1, 0]), width).bits.mean() for width in WIDTHS), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network


@pytest.fixture(scope="module")
def still() -> SlimStill:
    return SlimStill("slimcae", still_model())


@pytest.fixture(scope="module")
def prior(still: SlimStill) -> SlimTemporalPrior:
    return trained(still.model)


@pytest.fixture(scope="module")
def codec(still: SlimStill, prior: SlimTemporalPrior) -> SlimClip:
    return SlimClip("slimvc", still, freeze_prior(prior, [drive(3, seed=k) for k in range(6)], "slimcae", steps=60))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return drive(GOP_FRAMES + 4, 70, 53, seed=99)


def each_width(codec: SlimClip) -> list[OperatingPoint]:
    return [next(point for point in codec.still.all_points[::-1] if point["width"] == width) for width in WIDTHS]


def test_every_frame_is_the_image_that_its_still_decodes_to(codec: SlimClip, clip: Clip) -> None:
    for point in each_width(codec):
        decoded = codec.decode(codec.encode(clip, point))
        stills = [codec.still.decode(codec.still.encode(image, point)) for image in clip]
        np.testing.assert_array_equal(decoded, stills)


def test_a_prediction_saves_bytes_of_every_width(codec: SlimClip, clip: Clip) -> None:
    for point in each_width(codec):
        alone = sum(len(codec.encode(clip[k : k + 1], point)) for k in range(8))
        assert len(codec.encode(clip[:8], point)) < 0.9 * alone


def test_key_frames_cost_what_they_cost_alone(codec: SlimClip, clip: Clip) -> None:
    point = each_width(codec)[1]
    both = codec.encode(np.concatenate([clip[:GOP_FRAMES], clip[:1]]), point)
    first, one = codec.encode(clip[:GOP_FRAMES], point), codec.encode(clip[:1], point)
    overhead = len(one) - len(unpack(one).body)
    assert len(both) == len(first) + len(one) - overhead


def test_any_frame_can_be_had_from_its_key_frame_on(codec: SlimClip, clip: Clip) -> None:
    payload = codec.encode(clip, each_width(codec)[0])
    whole = codec.decode(payload)
    for first in (0, 1, GOP_FRAMES - 1, GOP_FRAMES, GOP_FRAMES + 3):
        np.testing.assert_array_equal(list(codec.frames(payload, first)), whole[first:])
    with pytest.raises(ValueError, match="the clip has 36 frames, none is 36"):
        next(codec.frames(payload, 36))


def test_real_bytes_are_what_the_trained_network_expects(
    codec: SlimClip, still: SlimStill, prior: SlimTemporalPrior
) -> None:
    """Whole numbers cost a little; escapes cost less than the far ends of a Gaussian."""
    seen = drive(3, 128, 192, seed=7)
    for width, point in zip(WIDTHS, each_width(codec), strict=True):
        lone, inner = still.of_point(point)
        position, model = lone.position_of(inner), lone.model
        with torch.no_grad():
            symbols = [
                torch.round(lone.analysed(image, 0) * model.side.gain[position][:, None, None]) for image in seen
            ]
            entry = model.side.entry[position][:, None, None]
            spread = prior.spread[: len(entry), None, None]
            last, before = (as_steps(symbols[k], entry) / spread for k in (1, 0))
            log_scales, means = (
                prior.run(width, torch.stack((last, before), 2).flatten(1, 2))
                .reshape(1, len(entry), 2, *last.shape[2:])
                .unbind(2)
            )
            unit = spread / entry
            bits = gaussian_symbol_bits(symbols[2], means * unit, log_scales.exp() * unit)
            expected = float(bits.clamp(max=ESCAPE_BITS).sum()) / 8
        spent = len(codec.encode(seen, point)) - len(codec.encode(seen[:2], point))
        assert 0.9 * expected < spent < 1.03 * expected + 16


def test_a_latent_is_the_still_codecs_own(codec: SlimClip, clip: Clip) -> None:
    width, point = WIDTHS[0], each_width(codec)[0]
    lone = NeuralStill("cae", codec.still.model.of_width(width))
    payload = codec.encode(clip[:1], point)
    body = unpack(payload).body
    assert body[3:] == unpack(lone.encode(clip[0], codec.still.of_point(point)[1])).body


def test_payloads_are_the_same_with_other_threads_and_without_onednn(
    codec: SlimClip, clip: Clip, tmp_path: Path
) -> None:
    codec.model.save(tmp_path / "slimvc.safetensors")
    codec.still.model.save(tmp_path / "slimcae.safetensors")
    np.save(tmp_path / "clip.npy", clip[:4])
    payload = codec.encode(clip[:4], each_width(codec)[1])
    script = f"""
import numpy as np, torch
from pathlib import Path
from roadbits.codecs.codec import OperatingPoint
from roadbits.codecs.neural.slim_clip import SlimClip
from roadbits.codecs.neural.slim_model import load_model
from roadbits.codecs.neural.slim_still import SlimStill
from roadbits.codecs.neural.temporal_model import TemporalModel
torch.set_num_threads(2)
torch.backends.mkldnn.enabled = False
still = SlimStill("slimcae", load_model(Path("slimcae.safetensors")))
codec = SlimClip("slimvc", still, TemporalModel.load(Path("slimvc.safetensors")))
payload = codec.encode(np.load("clip.npy"), OperatingPoint.parse("{each_width(codec)[1]}"))
Path("payload").write_bytes(payload)
np.save("decoded.npy", codec.decode(payload))
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert (tmp_path / "payload").read_bytes() == payload
    np.testing.assert_array_equal(np.load(tmp_path / "decoded.npy"), codec.decode(payload))


def test_widths_share_their_weights_in_the_file(codec: SlimClip, tmp_path: Path) -> None:
    path = tmp_path / "slimvc.safetensors"
    codec.model.save(path)
    again = SlimClip("slimvc", codec.still, TemporalModel.load(path))
    assert again.model_hash == codec.model_hash
    kernels = [name for name in again.model.description.shared if name.endswith(".weight")]
    assert len(kernels) == 4  # all four layers of the narrow width are slices of the wide one's
    apart = sum(t.numel() * t.element_size() for k in range(2) for t in codec.model.tensors_of(k).values())
    assert codec.model.num_bytes < apart + 4 * codec.model.tables.frequencies.size


def test_wider_costs_more(codec: SlimClip) -> None:
    narrow, wide = (codec.complexity(point, 64, 96) for point in each_width(codec))
    assert narrow.encode_macs < wide.encode_macs
    assert narrow.parameters < wide.parameters
    still = codec.still.complexity(each_width(codec)[1], 64, 96)
    places = (64 // 16) * (96 // 16)
    own = 2 * 32 * 16 + 25 * 16 * 16 + 9 * 16 * 16 + 16 * 2 * 32
    assert wide.encode_macs - still.encode_macs == places * own


def test_damage_is_told_from_a_clip(codec: SlimClip, clip: Clip) -> None:
    payload = codec.encode(clip[:3], each_width(codec)[0])
    for cut in range(0, len(payload), max(1, len(payload) // 50)):
        with pytest.raises(BitstreamError):
            codec.decode(payload[:cut])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point": (0, 0)}, "claims 0 frames"),
        ({"point": (60000, 0)}, "ends in frame 3 of the 60000 that it promises"),
        ({"point": (65535, 0), "height": 4096, "width": 4096}, "claims 65535 frames of 4096 x 4096"),
        ({"point": (2, 0)}, "bytes behind its last frame"),
        ({"point": (3, 999)}, "is of position 999"),
        ({"point": (3,)}, "has 1 point values, wants 2"),
        ({"height": 15}, "claims 3 frames of 15 x 53"),
        ({"model_hash": b"nobody"}, "needs the slimcae model"),
        ({"adapter_hash": b"nobody"}, "and the temporal model 6e6f626f6479"),
        ({"body": b"\xff\xff\xff"}, "ends in frame 0"),
        ({"body": b""}, "ends in frame 0"),
    ],
)
def test_lies_of_a_header_are_found_out(codec: SlimClip, clip: Clip, changes: dict[str, object], message: str) -> None:
    container = unpack(codec.encode(clip[:3], each_width(codec)[0]))
    with pytest.raises(BitstreamError, match=message):
        codec.decode(pack(replace(container, **changes)))  # type: ignore[arg-type]


def test_a_body_that_is_cut_and_signed_again_is_told(codec: SlimClip, clip: Clip) -> None:
    container = unpack(codec.encode(clip[:3], each_width(codec)[0]))
    for k in range(20):
        with pytest.raises(BitstreamError):
            codec.decode(pack(replace(container, body=container.body[: len(container.body) * k // 20])))


def test_noise_for_a_body_gives_an_error_or_a_picture(codec: SlimClip, clip: Clip) -> None:
    container = unpack(codec.encode(clip[:3], each_width(codec)[0]))
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(30):
        body = bytearray(container.body)
        for _ in range(4):
            body[int(rng.integers(3, len(body)))] = int(rng.integers(256))
        try:
            assert codec.decode(pack(replace(container, body=bytes(body)))).shape == (3, 70, 53, 3)
        except BitstreamError:
            told += 1
    assert told


def test_a_temporal_model_belongs_to_one_still_codec(codec: SlimClip) -> None:
    description = codec.model.description.model_copy(update={"still_hash": "0" * 12})
    with pytest.raises(ValueError, match="the temporal model is of slimcae 000000000000, that one is"):
        SlimClip("slimvc", codec.still, replace(codec.model, description=description))


def test_a_hyperprior_has_no_factorised_latent() -> None:
    torch.manual_seed(0)
    network = SlimHyperprior((8, 16), (8, 16), LEVELS)
    model = freeze_widths(network, list(drive(2, 128, 192)), steps=1)
    with pytest.raises(ValueError, match="belongs to a slimcae"):
        SlimTemporalPrior(model, (4, 8))


@pytest.mark.parametrize("text", ["width=20,lambda=0.01", "lambda=0.01", "width=16,lambda=9"])
def test_a_point_that_is_none_is_refused(codec: SlimClip, clip: Clip, text: str) -> None:
    with pytest.raises(ValueError, match=r"width|has no point"):
        codec.encode(clip[:1], OperatingPoint.parse(text))


def test_one_width_offers_its_points_alone(codec: SlimClip, clip: Clip) -> None:
    alone = SlimClip("slimvc/32", codec.still, codec.model, 32)
    assert [str(point) for point in alone.points] == ["width=32,lambda=0.002", "width=32,lambda=0.02"]
    payload = codec.encode(clip[:2], alone.points[1])
    assert alone.encode(clip[:2], alone.points[1]) == payload
    np.testing.assert_array_equal(alone.decode(payload), codec.decode(payload))
    with pytest.raises(ValueError, match=r"slimvc/32 has no point width=16.*: it has width 32 alone"):
        alone.encode(clip[:1], each_width(codec)[0])
    with pytest.raises(ValueError, match="width 20 was not trained; choose from 16, 32"):
        SlimClip("slimvc/20", codec.still, codec.model, 20)


def test_small_or_strange_clips_are_refused(codec: SlimClip) -> None:
    point = each_width(codec)[0]
    with pytest.raises(ValueError, match="sides of at least 16"):
        codec.encode(np.zeros((2, 15, 64, 3), np.uint8), point)
    with pytest.raises(ValueError, match="expected a clip"):
        codec.encode(np.zeros((64, 64, 3), np.uint8), point)


def test_a_still_codecs_file_is_no_temporal_model(codec: SlimClip, tmp_path: Path) -> None:
    codec.still.model.save(tmp_path / "slimcae.safetensors")
    with pytest.raises(ModelFileError, match="cannot use the weights"):
        TemporalModel.load(tmp_path / "slimcae.safetensors")
    with pytest.raises(ModelFileError, match="no file of weights"):
        TemporalModel.load(tmp_path / "gone.safetensors")


def test_values_far_outside_of_what_is_expected_survive(codec: SlimClip) -> None:
    rng = np.random.default_rng(1)
    wild = rng.integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    wild[2] = 0
    wild[3] = 255
    point = each_width(codec)[1]
    decoded = codec.decode(codec.encode(wild, point))
    np.testing.assert_array_equal(decoded, [codec.still.decode(codec.still.encode(image, point)) for image in wild])


def test_latents_and_steps_are_told_apart_by_their_entry() -> None:
    symbols = latents_of(np.array([-3, 0, 2, 900], np.int32), (1, 1, 2, 2))
    assert as_steps(symbols, torch.tensor(2.5)).flatten().tolist() == [-7, 0, 5, 511]
