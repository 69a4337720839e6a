"""Conditioners that give a map beside x_t."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import DPTModel

from ldm.batch import Size
from ldm.conditioner.depth import DepthConditioner
from ldm.conditioner.inpainting import InpaintingConditioner
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.conditioner.maps import area_means, scaled_by_range
from ldm.conditioner.segmentation import SegmentationConditioner
from ldm.nn.embedding import sinusoidal
from ldm.pretrained.vision import standardized
from tests.conditioner.small import fields_of, rows, save_depth
from tests.conftest import scramble
from tests.deterministic import Deterministic


def test_a_segmentation_map_is_halved_bilinearly_and_convolved_as_in_the_paper():
    conditioner = scramble(SegmentationConditioner(5))
    fields = fields_of(3)
    halved = F.one_hot(fields["segmentation"], 5).permute(0, 3, 1, 2).float()
    for _ in range(2):
        halved = F.interpolate(halved, scale_factor=0.5, mode="bilinear")
    expected = F.conv2d(halved, conditioner.project.weight[:, :, None, None])
    torch.testing.assert_close(conditioner(fields).concat, expected)
    weights = sum(weight.numel() for weight in SegmentationConditioner(182).parameters())
    assert weights == 182 * 3, "the paper's 1 x 1 convolution, which has no bias"


@pytest.mark.parametrize("size", [(3, 7), (8, 5), (40, 56)])
def test_a_map_of_any_size_becomes_one_of_the_latents_size(size):
    maps = torch.rand(2, 3, 32, 48)
    found = area_means(maps, Size(*size))
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(maps, size))
    conditioner, fields = SegmentationConditioner(5), fields_of(2)
    fields["latent_size"] = torch.tensor([size, size])
    with Deterministic():
        beside = conditioner(fields).concat
        beside.sum().backward()
    assert beside.shape == (2, 3, *size)


def test_classes_that_cannot_be_are_reported():
    fields = fields_of(2)
    for wrong in (-1, 5, 255):
        classes = fields["segmentation"].clone()
        classes[1, 3, 4] = wrong
        message = f"the field segmentation has the value {wrong}, but with conditioner.num_classes=5 values are 0 to 4; mend it"
        with pytest.raises(ValueError, match=message):
            SegmentationConditioner(5).check({**fields, "segmentation": classes})
        with pytest.raises(ValueError, match=f"segmentation of the sample 'b' has the value {wrong}, .* 4, or 7; mend"):
            SegmentationConditioner(5, unlabelled=7).check({**fields, "segmentation": classes}, ["a", "b"])
    SegmentationConditioner(5).check(fields)
    with pytest.raises(ValueError, match=r"a class for each pixel, \(B, H, W\), whole numbers; got torch.float32"):
        SegmentationConditioner(5)({**fields, "segmentation": fields["depth"]})


@pytest.mark.parametrize("unlabelled", [255, 3])
def test_unlabelled_pixels_have_no_class(unlabelled):
    """Their one-hot vector is zero: nothing is added for them, and no row learns from them."""
    conditioner = scramble(SegmentationConditioner(5, unlabelled=unlabelled))
    fields = fields_of(2)
    classes = fields["segmentation"]
    classes[classes == 3] = 0
    classes[0, :16] = unlabelled
    classes[1, 5:9, 3:30] = unlabelled
    one_hot = F.one_hot(torch.where(classes == unlabelled, 5, classes), 6)[..., :5].permute(0, 3, 1, 2).float()
    expected = F.conv2d(F.avg_pool2d(one_hot, 4), conditioner.project.weight[:, :, None, None])
    conditioner.check(fields)
    found = conditioner(fields).concat
    torch.testing.assert_close(found, expected)
    assert not found[0, :, :4].any(), "as of a dropped map"
    found.square().sum().backward()
    assert torch.equal(conditioner.project.weight.grad.abs().sum(0) > 0, torch.tensor([True, True, True, False, True]))
    for wrong in (254, 5, -1):
        with pytest.raises(ValueError, match=f"has the value {wrong}, .* values are 0 to 4, or {unlabelled}; mend it"):
            conditioner.check({"segmentation": torch.where(classes == unlabelled, wrong, classes)})
    with pytest.raises(
        ValueError, match="conditioner.unlabelled=-1 cannot be; give a whole number, at least 0, or null"
    ):
        SegmentationConditioner(5, unlabelled=-1)
    plain = SegmentationConditioner(5)
    plain.load_state_dict(conditioner.state_dict())
    labelled = fields_of(2, seed=1)
    without_three = torch.where(labelled["segmentation"] == 3, 0, labelled["segmentation"])
    labelled["segmentation"] = without_three
    assert torch.equal(plain(labelled).concat, conditioner(labelled).concat), (
        "where all pixels have a class, nothing changes"
    )


def test_a_low_resolution_image_of_the_latents_resolution_is_shown_as_it_is():
    conditioner, fields = LowResolutionConditioner(4), fields_of(2)
    fields["low_resolution"] = torch.rand(2, 3, 8, 12)
    condition = conditioner.train()(fields)
    assert torch.equal(condition.concat, fields["low_resolution"])
    assert condition.vector is None
    flat = LowResolutionConditioner(8)({**fields, "low_resolution": torch.full((2, 3, 4, 6), 0.3)}).concat
    torch.testing.assert_close(flat, torch.full((2, 3, 8, 12), 0.3))


def test_a_low_resolution_image_of_another_factor_is_refused():
    with pytest.raises(
        ValueError, match=r"makes images 4 times as large .* is of 16 x 24 pixels, and images of 32 x 48"
    ):
        LowResolutionConditioner(4)(fields_of(2))
    for factor in (1, 2.0, None):
        with pytest.raises(ValueError, match=f"conditioner.factor={factor} cannot be".replace("None", "null")):
            LowResolutionConditioner(factor)


def test_noise_of_a_low_resolution_image_is_drawn_in_training_alone_and_its_level_is_encoded():
    conditioner = LowResolutionConditioner(2, noise=0.8, vector_width=8)
    sizes = {"latent_size": torch.tensor([[16, 16]] * 200), "image_size": torch.tensor([[32, 32]] * 200)}
    fields = {"low_resolution": torch.zeros(200, 3, 16, 16), **sizes}
    assert torch.equal(conditioner.eval()(fields).concat, fields["low_resolution"])
    assert torch.equal(conditioner(fields).vector, sinusoidal(torch.zeros(200), 8))
    torch.manual_seed(0)
    noisy = conditioner.train()(fields)
    torch.manual_seed(0)
    levels = 0.8 * torch.rand(200)
    torch.testing.assert_close(noisy.concat.flatten(1).std(1), levels, rtol=0.15, atol=1e-3)
    torch.testing.assert_close(noisy.vector, sinusoidal(levels * 1000, 8))
    bright = conditioner({**fields, "low_resolution": torch.ones(200, 3, 16, 16)})
    fields["noise_level"] = [0.0] * 200
    assert not torch.equal(conditioner(fields).concat, conditioner(fields).concat), "in training, levels are drawn"
    assert (bright.concat.square().mean() - 1).abs() < 0.05, "the variance is preserved"
    with pytest.raises(ValueError, match="give conditioner.noise above 0 and conditioner.vector_width"):
        LowResolutionConditioner(2, noise=0.5)
    with pytest.raises(ValueError, match="give conditioner.noise above 0 and conditioner.vector_width"):
        LowResolutionConditioner(2, vector_width=8)


def test_noise_of_a_low_resolution_image_is_chosen_at_sampling_and_depends_on_the_seed_of_the_image():
    conditioner, fields = LowResolutionConditioner(2, noise=0.8, vector_width=8, drop_rate=0.1).eval(), fields_of(4)
    fields |= {"noise_level": torch.tensor([0.0, 0.4, 0.8, 0.4]), "seed": torch.tensor([5, 5, 6, 7])}
    state = torch.get_rng_state()
    condition = conditioner(fields)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn that others would miss"
    torch.testing.assert_close(condition.vector, sinusoidal(fields["noise_level"] * 1000, 8))
    plain = conditioner(rows(fields, [0, 1, 2, 3]) | {"noise_level": [0.0] * 4}).concat
    levels = fields["noise_level"][:, None, None, None]
    torch.testing.assert_close(condition.concat[0], plain[0])
    noise = (condition.concat - (1 - levels**2).sqrt() * plain)[1:] / levels[1:]
    assert (noise.mean((1, 2, 3)).abs() < 0.2).all()
    assert (noise.std((1, 2, 3)) - 1).abs().max() < 0.15
    for row in (1, 2, 3):
        torch.testing.assert_close(conditioner(rows(fields, [row])).concat[0], condition.concat[row])
    again = conditioner(fields | {"seed": torch.tensor([0, 6, 6, 6])}).concat
    others = (again - (1 - levels**2).sqrt() * plain)[1:] / levels[1:]
    torch.testing.assert_close(others[0], others[1], rtol=1e-4, atol=1e-4), "the same seed, the same noise"
    torch.testing.assert_close(others[1], noise[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(noise[0], noise[2], atol=0.1)
    first = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(6))
    assert F.cosine_similarity(noise[1].flatten(), first.flatten(), 0).abs() < 0.25, (
        "not the noise that sampling begins with"
    )
    null = conditioner.null(fields)
    assert not null.vector.any()
    assert not null.concat.any()


@pytest.mark.parametrize(("noise", "wrong"), [(0.4, 0.5), (0.4, -0.1), (0.4, math.nan), (0.0, 0.1)])
def test_more_noise_than_in_training_is_refused(noise, wrong):
    conditioner = LowResolutionConditioner(2, noise=noise, vector_width=8 if noise else None)
    conditioner.check({"noise_level": [0.0, noise]})
    message = f"noise_level has the value {wrong:g}, but with conditioner.noise={noise:g} values are 0 to {noise:g}; give less"
    with pytest.raises(ValueError, match=message):
        conditioner.check({"noise_level": [0.0, wrong]})


def test_a_mask_is_put_behind_the_masked_latent():
    conditioner, fields = InpaintingConditioner(concat_channels=4, drop_rate=0.1), fields_of(2)
    found = conditioner(fields).concat
    assert torch.equal(found[:, :3], fields["masked_latent"])
    assert torch.equal(found[:, 3:], fields["mask"][..., ::4, ::4])
    null = conditioner.null(fields).concat
    assert not null[:, :3].any()
    assert null[:, 3:].eq(1).all(), "everything is to be made"
    with pytest.raises(
        ValueError, match="latents have 3 channels, and the mask has one; set conditioner.concat_channels=4"
    ):
        InpaintingConditioner(concat_channels=5)(fields)


def test_the_papers_own_model_has_a_black_hole_and_a_mask_of_both_signs():
    conditioner, fields = InpaintingConditioner(concat_channels=4, black_hole=True), fields_of(2)
    found = conditioner(fields).concat
    assert conditioner.inputs == ("black_masked_latent", "mask", "latent_size")
    assert torch.equal(found[:, :3], fields["black_masked_latent"])
    assert torch.equal(found[:, 3:], 2.0 * fields["mask"][..., ::4, ::4] - 1.0)
    with pytest.raises(ValueError, match="conditioner.black_hole=3"):
        InpaintingConditioner(concat_channels=4, black_hole=3)


def test_a_depth_map_is_resized_and_goes_from_minus_1_to_1_as_in_stable_diffusion():
    fields = fields_of(3)
    fields["depth"] = 0.1 * fields["depth"] + torch.tensor([0.2, -0.5, 0.0])[:, None, None, None]
    small = F.interpolate(fields["depth"], (8, 12), mode="bicubic", align_corners=False)
    low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(DepthConditioner()(fields).concat, 2.0 * (small - low) / (high - low) - 1.0)
    assert not scaled_by_range(torch.full((2, 1, 4, 4), 7.0)).any(), "there is no depth where all is equal"


def test_a_depth_network_makes_the_map_where_none_is_given(tmp_path):
    theirs = save_depth(tmp_path)
    conditioner = DepthConditioner(str(tmp_path), size=32)
    assert conditioner.inputs == ("image", "latent_size")
    conditioner.prepare(None)
    fields = fields_of(3)
    given = conditioner(fields).concat
    torch.testing.assert_close(given, DepthConditioner()(fields).concat, rtol=0, atol=0)
    del fields["depth"]
    found = conditioner.train()(fields).concat
    with torch.no_grad():
        depth = theirs(standardized(fields["image"], 32, [0.5] * 3, [0.5] * 3)).predicted_depth[:, None]
    assert depth.std() > 0
    torch.testing.assert_close(found, DepthConditioner()({**fields, "depth": depth}).concat)
    assert not torch.allclose(found, given)
    assert not any(weight.requires_grad for weight in conditioner.parameters())

    again = DepthConditioner("a folder that is gone", size=32)
    with pytest.raises(RuntimeError, match="there is no depth network yet"):
        again(fields)
    again.load_state_dict(conditioner.state_dict())
    torch.testing.assert_close(again(fields).concat, found, rtol=0, atol=0)


def test_without_a_depth_map_and_a_network_the_way_out_is_named(tmp_path):
    fields = fields_of(2)
    del fields["depth"]
    with pytest.raises(ValueError, match="the field depth is needed.*conditioner.name=FOLDER_OR_HUB_NAME"):
        DepthConditioner()(fields)
    with pytest.raises(FileNotFoundError, match="no depth network .*nowhere.*set conditioner.name=FOLDER"):
        DepthConditioner(str(tmp_path / "nowhere")).prepare(None)
    DPTModel(save_depth(tmp_path).config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no depth network: it lacks .* weights of one"):
        DepthConditioner(str(tmp_path)).prepare(None)
