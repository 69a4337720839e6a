"""How near to a known image its completion or its enlargement comes."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio

from ldm.metric.extraction import rounded
from ldm.metric.fidelity import InpaintingFidelity, SuperResolutionFidelity, psnr
from tests.metric.measured import Measured

TRUTH = rounded(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1)
MADE = (TRUTH + 0.1 * torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)


def test_the_ratio_is_that_of_torchmetrics():
    images, truth = MADE.double(), TRUTH.double()
    for made, true, ours in zip(images, truth, psnr(images, truth, torch.ones(3, 1, 16, 16)), strict=True):
        torch.testing.assert_close(ours, peak_signal_noise_ratio(made, true, data_range=2.0))


def test_only_the_hole_counts():
    mask = torch.zeros(3, 1, 16, 16)
    mask[:2, :, 4:8, 4:8] = 1
    made = torch.where(mask > 0, TRUTH + 0.2, 5.0)
    found = InpaintingFidelity().measure(made, {"image": TRUTH, "mask": mask})
    torch.testing.assert_close(found["hole_psnr"], torch.full((2,), 20 * math.log10(2 / 0.2)), check_dtype=False)
    assert found["mean_color_psnr"].shape == (2,)
    flat = torch.full_like(TRUTH, 0.3)
    found = InpaintingFidelity().measure(flat, {"image": flat, "mask": mask})
    assert found["mean_color_psnr"].tolist() == pytest.approx([66.02, 66.02], abs=0.01)


def test_bicubic_is_right_on_a_ramp_and_the_truth_is_better_than_bicubic_on_noise():
    metric = SuperResolutionFidelity()
    measured = Measured(metric)
    small = torch.nn.functional.avg_pool2d(TRUTH, 4)
    measured.update(TRUTH, {"image": TRUTH, "low_resolution": small})
    found = measured.compute()
    assert found["enlarged_psnr"] == pytest.approx(66.02, abs=0.01)
    assert found["bicubic_psnr"] < 20
    flat = torch.full((2, 3, 16, 16), 0.25)
    assert metric.measure(flat, {"image": flat, "low_resolution": flat[..., ::4, ::4]})["bicubic_psnr"].min() > 60
