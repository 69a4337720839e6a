"""Equivariance: images and latents are changed alike, as often and as much as is asked for."""

import json

import pytest
import torch
import torch.nn.functional as F

from ldm.autoencoder.equivariance import EQVAE, LEAST_COMPARED, ScaleEquivariance
from ldm.autoencoder.loss import AutoencoderLoss
from ldm.pretrained.lpips import vgg16_features
from ldm.training.options import RunContext
from ldm.training.run import make_stages
from tests.configs import composed
from tests.conftest import forked
from tests.deterministic import Deterministic
from tests.task.test_training import Data, autoencoder, optimizers, train
from tests.training.stages import built
from tests.training.stages import composed as stages_composed


def test_latents_are_changed_as_their_images_are():
    """A latent that is the image itself, or its mean over blocks, stays what belongs to the changed image."""
    change = EQVAE(probability=1.0).instead
    smooth = F.interpolate(torch.rand(2, 3, 5, 5), 128, mode="bicubic").clamp(0.1, 0.9)
    for _ in range(20):
        image, raw = change(smooth, smooth)
        assert torch.equal(image, raw)
        image, raw = change(smooth, F.avg_pool2d(smooth, 4))
        assert image.shape[-2:] == tuple(4 * side for side in raw.shape[-2:])
        assert (F.avg_pool2d(image, 4) - raw).abs().mean() < 0.01


def test_all_turns_and_sizes_occur_and_images_keep_32_pixels():
    change = EQVAE(probability=1.0, smallest=0.25).instead
    image, raw = torch.rand(1, 3, 64, 96), torch.rand(1, 4, 8, 12)
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
    change, image, raw = EQVAE(probability=probability).instead, torch.rand(1, 3, 32, 32), torch.rand(1, 4, 8, 8)
    assert least <= sum(change(image, raw) is not None for _ in range(400)) <= most


@pytest.mark.parametrize(("option", "value"), [("probability", 1.5), ("smallest", 0.0), ("smallest", 2.0)])
def test_what_cannot_be_is_refused(option, value):
    with pytest.raises(ValueError, match=f"equivariance.{option}={value:g}|equivariance.{option}={value} cannot be"):
        EQVAE(**{option: value})


class Blocks(torch.nn.Module):
    """An encoder that takes means over blocks of f pixels, and a decoder that gives each block one colour."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def encode(self, image):
        return F.avg_pool2d(image, self.f)

    def decode(self, raw):
        return raw.repeat_interleave(self.f, -1).repeat_interleave(self.f, -2)


@pytest.mark.parametrize("f", [1, 4])
def test_what_commutes_with_means_over_blocks_has_no_loss_beside(f):
    """On images that are constant over blocks, as many pixels as the decoder of the smaller latent can tell apart."""
    scale, network = ScaleEquivariance(factors=[2, 4]), Blocks(f)
    image = torch.rand(2, 3, 64 // f // 4, 96 // f // 4).repeat_interleave(4 * f, -1).repeat_interleave(4 * f, -2)
    raw = network.encode(image)
    loss = AutoencoderLoss(squared_weight=1.0)
    for _ in range(10):
        view = scale.beside(image, raw)
        assert float(loss.reconstruction(view.image, network.decode(view.raw))) < 1e-6
        noisy = network.decode(view.raw + 0.1 * torch.randn(view.raw.shape))
        assert float(loss.reconstruction(view.image, noisy)) > 0.01
    assert scale.instead(image, raw) is None


def test_the_latent_of_a_smaller_image_is_the_smaller_latent_of_what_commutes():
    network, image = Blocks(4), torch.rand(2, 3, 64, 96)
    view = ScaleEquivariance(factors=[2]).beside(image, network.encode(image))
    torch.testing.assert_close(network.encode(view.image), view.raw)
    bilinear = F.interpolate(image, scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(view.image, bilinear)


def test_all_factors_that_fit_are_drawn_about_as_often():
    scale, image = ScaleEquivariance(factors=[2, 3, 4]), torch.rand(1, 3, 64, 96)
    seen = [scale.beside(image, torch.rand(1, 4, 8, 12)).raw.shape[-1] for _ in range(200)]
    assert set(seen) == {6, 3}, "three divides no height of 8"
    assert 60 < seen.count(6) < 140
    assert scale.beside(torch.rand(1, 3, 40, 40), torch.rand(1, 4, 5, 5)) is None


def test_images_that_are_made_smaller_suffice_for_lpips():
    maps = torch.rand(1, 3, LEAST_COMPARED, LEAST_COMPARED)
    for place, layer in enumerate(vgg16_features()):
        maps = layer(maps)
        assert min(maps.shape) > 0, place


def test_images_too_small_to_be_made_smaller_are_refused_before_training(tmp_path):
    scale = ScaleEquivariance()
    scale.check_size((32, 32), 4)
    with pytest.raises(ValueError, match=r"factors=\[2, 4\] divide no latents of images of data.size=\[16, 32\]"):
        scale.check_size((16, 32), 4)
    with pytest.raises(ValueError, match="use larger images, other factors, or equivariance=eq_vae"):
        built(
            "autoencoder",
            stages_composed("experiment=txt2img", "debug=tiny", "equivariance=scale", "data.size=20"),
            tmp_path,
        )
    EQVAE().check_size((16, 32), 4)


@pytest.mark.parametrize(
    ("options", "message"), [({"weight": -1.0}, "equivariance.weight=-1"), ({"factors": [1]}, "factors=1 ")]
)
def test_what_cannot_be_is_refused_of_scales_too(options, message):
    with pytest.raises(ValueError, match=message):
        ScaleEquivariance(**options)


def test_the_loss_beside_is_added_with_its_weight():
    """Two runs of a step that differ in the weight alone."""
    measured = {}
    for weight in (0.0, 0.25, 0.5):
        torch.manual_seed(0)
        task = autoencoder(optimizer=optimizers([]), equivariance=ScaleEquivariance(weight=weight, factors=[2]))
        trainer = train(task, Data(32, 2), "32-true", steps=1)
        measured[weight] = {
            name.removeprefix("train/"): float(value) for name, value in trainer.callback_metrics.items()
        }
    plain = measured[0.0]["total"]
    beside = measured[0.5]["equivariance"] / 0.5
    assert beside > 0.1
    for weight, values in measured.items():
        assert values["equivariance"] == pytest.approx(weight * beside, rel=1e-5)
        assert values["total"] == pytest.approx(plain + weight * beside, rel=1e-5)


@pytest.mark.parametrize(
    ("group", "choice"), [("equivariance", "eq_vae"), ("equivariance", "scale"), ("latent_alignment", "va_vae")]
)
def test_a_frozen_encoder_goes_not_with_it(tmp_path, group, choice):
    options = ["autoencoder.ckpt=x", "data=icons", f"{group}={choice}", f"paths.runs_dir={tmp_path}"]
    config = composed("train", "experiment=finetune_decoder", *options)
    (stage,) = make_stages(RunContext(config, tmp_path))
    with pytest.raises(ValueError, match=f"here the encoder is frozen; set {group}=none"):
        stage.check([])


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("regularizer", "choice"), [("kl_icons", "eq_vae"), ("vq_icons", "eq_vae"), ("vq_icons", "scale")]
)
def test_an_autoencoder_is_trained_with_it(home, places, regularizer, choice):
    forked("train.py", "experiment=autoencoder", "data=icons", f"autoencoder={regularizer}", "debug=tiny", "trainer=cpu",
           f"equivariance={choice}", "data.size=64", f"name={choice}-{regularizer}", *places)  # fmt: skip
    results = json.loads((home / "runs" / f"{choice}-{regularizer}" / "autoencoder" / "results.json").read_text())
    assert results["val/psnr"] > 5


def test_latents_are_resized_as_torch_does_and_their_gradient_is_deterministic():
    change, raw = EQVAE(probability=1.0), torch.randn(2, 4, 16, 24, requires_grad=True)
    for _ in range(8):
        with Deterministic():
            changed = change.instead(torch.rand(2, 3, 64, 96), raw).raw
            changed.sum().backward()
        wide = changed.shape[-2:] if changed.shape[-2] <= changed.shape[-1] else changed.shape[:-3:-1]
        same = F.interpolate(raw, tuple(wide), mode="bicubic", antialias=True)
        assert any(torch.allclose(same.rot90(turn, (-2, -1)), changed, atol=1e-5) for turn in range(4)
                   if same.rot90(turn, (-2, -1)).shape == changed.shape)  # fmt: skip
    with Deterministic(), pytest.raises(AssertionError, match="is not deterministic"):
        F.interpolate(raw, (8, 12), mode="bicubic", antialias=True).sum().backward()
