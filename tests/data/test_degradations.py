"""Degradations: sizes, determinism, and agreement with an independent antialiased resize."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldm.batch import Size
from ldm.data.degradations.bicubic import Bicubic
from ldm.data.degradations.bsr_light import BSRLight, convolve, gaussian_kernel
from ldm.data.sources.icons import icon_mask


def photo(height=64, width=48):
    """A picture with edges and slopes."""
    ramp = np.linspace(0, 255, width)[None, :, None].repeat(height, 0).repeat(3, 2)
    ramp[:, :, 1] = ramp[:, ::-1, 1]
    picture = Image.fromarray(ramp.astype(np.uint8))
    picture.paste("red", (4, 4), icon_mask("heart", 40))
    return np.array(picture)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("kind", [Bicubic, BSRLight])
def test_the_result_is_smaller_by_the_factor_and_depends_on_the_generator_alone(kind, factor):
    image, degradation = photo(), kind(factor)
    before = image.copy()
    results = [degradation(image, random.Random(seed)) for seed in (0, 0, *range(1, 20))]
    assert all(result.shape == (64 // factor, 48 // factor, 3) and result.dtype == np.uint8 for result in results)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(image, before)
    assert all(np.array_equal(results[0], other) for other in results[2:]) == degradation.deterministic
    with pytest.raises(ValueError, match="images of 9 x 12 pixels cannot be made smaller"):
        degradation(photo(9, 12), random.Random(0))
    with pytest.raises(ValueError, match="factor"):
        kind(1)
    with pytest.raises(ValueError, match="set data.size to multiples of it"):
        degradation.check_size(Size(64, 49))


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_agrees_with_the_antialiased_resize_of_torch(factor):
    image = 64 + photo() // 2  # so that nothing overshoots: Pillow clips rows before it resizes columns
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = F.interpolate(planes, scale_factor=1 / factor, mode="bicubic", antialias=True).clamp(0, 255)
    got = torch.from_numpy(Bicubic(factor)(image, random.Random(0)).copy()).permute(2, 0, 1)[None]
    assert (got - expected).abs().max() <= 1.0


def test_blur_kernels_are_gaussians():
    for side, first, second, angle in ((7, 1.0, 1.0, 0.3), (21, 2.0, 0.3, 0.0), (21, 2.0, 0.5, 0.9)):
        kernel = gaussian_kernel(side, first, second, angle).astype(np.float64)
        assert kernel.sum() == pytest.approx(1)
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        covariance = np.array([[(kernel * x * x).sum(), (kernel * x * y).sum()], [0, (kernel * y * y).sum()]])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        expected = turn @ np.diag([first, second]) @ turn.T
        np.testing.assert_allclose(covariance[np.triu_indices(2)], expected[np.triu_indices(2)], atol=0.06)
    spot = np.zeros((21, 21, 3), np.uint8)
    spot[10, 10] = 255
    kernel = gaussian_kernel(7, 1.5, 1.5, 0.0)
    np.testing.assert_allclose(convolve(spot, kernel)[7:14, 7:14, 0], kernel * 255, atol=0.51)
    flat = np.full((9, 5, 3), 77, np.uint8)
    assert np.array_equal(convolve(flat, gaussian_kernel(21, 2.0, 0.5, 1.0)), flat), "also beyond the edges"


def test_the_light_degradation_keeps_the_scene_and_strength_grows_with_its_options():
    image = photo(96, 96)
    clean = Bicubic(4)(image, random.Random(0)).astype(float)

    def error(**options):
        results = [BSRLight(4, **options)(image, random.Random(seed)) for seed in range(30)]
        return np.mean([np.abs(result - clean).mean() for result in results])

    light, paper = error(), error(blur=1.0, noise=(1.0, 25.0), quality=(30, 95))
    gentle = error(blur=0.0, noise=(0.0, 0.0), quality=(100, 100))
    assert gentle < light < paper
    assert light < 12
    for options in ({"noise": [3.0, 1.0]}, {"quality": [0, 90]}, {"blur": -1.0}, {"noise": [1.0]}):
        with pytest.raises(ValueError, match=f"degradation.{next(iter(options))}"):
            BSRLight(4, **options)
