"""Equivariance: images and latents are changed alike, as often and as much as is asked for."""

import json

import pytest
import torch
import torch.nn.functional as F

from ldm.autoencoder.equivariance import Equivariance
from ldm.training.options import RunContext
from ldm.training.run import make_stages
from tests.configs import composed
from tests.conftest import forked
from tests.deterministic import Deterministic


def test_latents_are_changed_as_their_images_are():
    """A latent that is the image itself, or its mean over blocks, stays what belongs to the changed image."""
    change = Equivariance(probability=1.0)
    smooth = F.interpolate(torch.rand(2, 3, 5, 5), 128, mode="bicubic").clamp(0.1, 0.9)
    for _ in range(20):
        image, raw = change(smooth, smooth)
        assert torch.equal(image, raw)
        image, raw = change(smooth, F.avg_pool2d(smooth, 4))
        assert image.shape[-2:] == tuple(4 * side for side in raw.shape[-2:])
        assert (F.avg_pool2d(image, 4) - raw).abs().mean() < 0.01


def test_all_turns_and_sizes_occur_and_images_keep_32_pixels():
    change, image, raw = Equivariance(probability=1.0, smallest=0.25), torch.rand(1, 3, 64, 96), torch.rand(1, 4, 8, 12)
    seen = [change(image, raw)[1].shape[-2:] for _ in range(200)]
    turned = [height > width for height, width in seen]
    assert 60 < sum(turned) < 140
    sizes = {tuple(sorted(shape)) for shape in seen}
    assert (8, 12) in sizes
    assert min(short for short, _ in sizes) == 4, "32 pixels"
    small = torch.rand(1, 3, 32, 32)
    assert {change(small, torch.rand(1, 4, 8, 8))[0].shape for _ in range(20)} == {small.shape}
    corner = torch.zeros(1, 3, 32, 32)
    corner[..., 0, 0] = 1.0
    places = {int(change(corner, torch.rand(1, 4, 8, 8))[0][0, 0].argmax()) for _ in range(50)}
    assert places == {0, 31, 31 * 32, 32 * 32 - 1}


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (0.5, 160, 240), (1.0, 400, 400)])
def test_as_many_batches_are_changed_as_is_asked_for(probability, least, most):
    change, image, raw = Equivariance(probability=probability), torch.rand(1, 3, 32, 32), torch.rand(1, 4, 8, 8)
    assert least <= sum(change(image, raw) is not None for _ in range(400)) <= most


@pytest.mark.parametrize(("option", "value"), [("probability", 1.5), ("smallest", 0.0), ("smallest", 2.0)])
def test_what_cannot_be_is_refused(option, value):
    with pytest.raises(ValueError, match=f"equivariance.{option}={value:g}|equivariance.{option}={value} cannot be"):
        Equivariance(**{option: value})


def test_a_frozen_encoder_goes_not_with_it(tmp_path):
    options = ["autoencoder.ckpt=x", "data=icons", "equivariance=eq_vae", f"paths.runs_dir={tmp_path}"]
    config = composed("train", "experiment=finetune_decoder", *options)
    (stage,) = make_stages(RunContext(config, tmp_path))
    with pytest.raises(ValueError, match="here the encoder is frozen; set equivariance=none"):
        stage.check([])


@pytest.mark.e2e
@pytest.mark.parametrize("regularizer", ["kl_icons", "vq_icons"])
def test_an_autoencoder_is_trained_with_it(home, places, regularizer):
    forked("train.py", "experiment=autoencoder", "data=icons", f"autoencoder={regularizer}", "debug=tiny", "trainer=cpu",
           "equivariance=eq_vae", "data.size=64", f"name=equivariant-{regularizer}", *places)  # fmt: skip
    results = json.loads((home / "runs" / f"equivariant-{regularizer}" / "autoencoder" / "results.json").read_text())
    assert results["val/psnr"] > 5


def test_latents_are_resized_as_torch_does_and_their_gradient_is_deterministic():
    change, raw = Equivariance(probability=1.0), torch.randn(2, 4, 16, 24, requires_grad=True)
    for _ in range(8):
        with Deterministic():
            changed = change(torch.rand(2, 3, 64, 96), raw)[1]
            changed.sum().backward()
        wide = changed.shape[-2:] if changed.shape[-2] <= changed.shape[-1] else changed.shape[:-3:-1]
        same = F.interpolate(raw, tuple(wide), mode="bicubic", antialias=True)
        assert any(torch.allclose(same.rot90(turn, (-2, -1)), changed, atol=1e-5) for turn in range(4)
                   if same.rot90(turn, (-2, -1)).shape == changed.shape)  # fmt: skip
    with Deterministic(), pytest.raises(AssertionError, match="is not deterministic"):
        F.interpolate(raw, (8, 12), mode="bicubic", antialias=True).sum().backward()
