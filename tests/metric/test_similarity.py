"""PSNR and SSIM of pairs of images: their laws, then their definitions in numpy and float64."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio as torchmetrics_ratio
from torchmetrics.functional.image import structural_similarity_index_measure

from ldm.metric.similarity import WINDOW, peak_signal_noise_ratio, structural_similarity

MEASURES = pytest.mark.parametrize("measure", [peak_signal_noise_ratio, structural_similarity])


@pytest.fixture
def pairs():
    """Bright, dark and grey images `(4, 3, 20, 17)`, smooth and flat ones, and what was done to them."""
    rng = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(4, 3, 4, 4, generator=rng) * 2 - 1, size=(20, 17), mode="bicubic"
    )
    level = torch.tensor([0.8, -0.8, 0.0, 0.3]).view(4, 1, 1, 1)
    truth = (level + torch.tensor([0.2, 0.2, 1.0, 0.0]).view(4, 1, 1, 1) * smooth).clamp(-1, 1)
    made = (0.9 * truth + 0.05 + 0.05 * torch.randn(truth.shape, generator=rng)).clamp(-1, 1)
    return made, truth


@MEASURES
def test_nothing_that_differs_is_best_and_neither_order_nor_batch_plays_a_part(measure, pairs):
    made, truth = pairs
    best = {peak_signal_noise_ratio: math.inf, structural_similarity: 1.0}[measure]
    assert measure(truth, truth).tolist() == pytest.approx([best] * 4)
    found = measure(made, truth)
    assert found.shape == (4,)
    assert (found < best).all()
    torch.testing.assert_close(measure(truth, made), found, rtol=1e-12, atol=0)
    alone = torch.cat([measure(*one) for one in zip(made.split(1), truth.split(1), strict=True)])
    torch.testing.assert_close(alone, found, rtol=1e-12, atol=0)
    flipped = measure(made.flip(3).transpose(2, 3), truth.flip(3).transpose(2, 3))
    torch.testing.assert_close(flipped, found, rtol=1e-12, atol=0)


def test_a_shift_of_brightness_costs_a_ratio_its_square_and_a_similarity_its_first_factor():
    """Of flat images, which have no variance: in [0, 1] their levels are 0.5 and 0.6."""
    truth = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    (ratio,), (similarity,) = (
        measure(truth + 0.2, truth) for measure in (peak_signal_noise_ratio, structural_similarity)
    )
    assert float(ratio) == pytest.approx(20)
    assert float(similarity) == pytest.approx((2 * 0.5 * 0.6 + 1e-4) / (0.5**2 + 0.6**2 + 1e-4))


def levels(images):
    """Images as they are published: of 8-bit levels, though not rounded to them."""
    return 255 * (images.double().numpy() + 1) / 2


def test_the_ratio_is_that_of_the_mean_squared_error(pairs):
    made, truth = map(levels, pairs)
    expected = [10 * math.log10(255**2 / np.mean((a - b) ** 2)) for a, b in zip(made, truth, strict=True)]
    assert peak_signal_noise_ratio(*pairs).tolist() == pytest.approx(expected, rel=1e-12)


def defined(x, y):
    """Wang et al., 2004, eq. 13 to 17, of one channel: window by window, as far as windows lie within the image."""
    place = np.arange(11) - 5
    line = np.exp(-(place**2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (part[row : row + 11, column : column + 11] for part in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a, variance_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            brightness = (2 * mean_a * mean_b + first) / (mean_a**2 + mean_b**2 + first)
            found.append(brightness * (2 * covariance + second) / (variance_a + variance_b + second))
    return np.mean(found)


def test_the_similarity_is_the_published_definition(pairs):
    made, truth = map(levels, pairs)
    expected = [np.mean([defined(*pair) for pair in zip(a, b, strict=True)]) for a, b in zip(made, truth, strict=True)]
    assert max(expected) - min(expected) > 0.3
    assert structural_similarity(*pairs).tolist() == pytest.approx(expected, rel=1e-9)


def test_mirrored_borders_and_images_in_minus_1_to_1_would_give_other_similarities(pairs):
    """As torchmetrics has them where it gets such images; its ratio is the same, but for a logarithm in float32."""
    made, truth = (part.double() for part in pairs)
    ours = structural_similarity(made, truth)
    mirrored = structural_similarity_index_measure((made + 1) / 2, (truth + 1) / 2, data_range=1.0, reduction="none")
    signed = structural_similarity_index_measure(made, truth, data_range=2.0, reduction="none")
    assert (ours - mirrored).abs().min() > 1e-4
    assert (mirrored - signed).abs().min() > 1e-4
    ratio = torchmetrics_ratio(made, truth, data_range=2.0, dim=(1, 2, 3), reduction="none")
    torch.testing.assert_close(peak_signal_noise_ratio(made, truth), ratio, rtol=1e-7, atol=0)


def test_images_smaller_than_a_window_have_no_similarity():
    image = torch.rand(2, 3, WINDOW, WINDOW)
    assert structural_similarity(image, image).tolist() == [1, 1]
    small = image[..., 1:]
    assert structural_similarity(small, small).isnan().tolist() == [True, True]
