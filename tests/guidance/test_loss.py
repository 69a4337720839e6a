import pytest
import torch

from ldm.guidance.base import NoGuidance
from ldm.guidance.loss import LossGuidance
from ldm.sampler.ddim import DDIM
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from ldm.sampler.unipc import UniPC
from tests.guidance.models import SCHEDULE, Near, T, X, denoiser, given


def test_score_guidance_is_the_gradient_through_the_denoiser():
    network = denoiser()
    got = LossGuidance(Near(2.0, 1.5), scale=0.7).wrap(given(network, 0.5))(X, T)
    alpha, sigma = (part[:, None, None, None] for part in SCHEDULE.alpha_sigma(T))
    clean = NoGuidance().wrap(given(network, 0.5))(X, T).clean
    slope = alpha * 0.5 / (alpha**2 * 0.5 + sigma**2)
    expected = clean + 0.7 * sigma**2 / alpha * slope * (2.0 - clean) / 1.5**2
    torch.testing.assert_close(got.clean, expected)
    assert not got.clean.requires_grad


@pytest.mark.parametrize("sampler", [DDIM(100), Heun(50), UniPC(50)])
def test_score_guidance_leads_to_what_is_wanted(sampler):
    far = []
    for scale in (0.0, 0.3, 1.0):
        guided = LossGuidance(Near(1.5, 0.7), scale=scale).wrap(given(denoiser(), 0.0, count=8))
        far.append(float((sampler.sample(guided, SCHEDULE, SeededNoise(range(8)), (1, 4, 4)) - 1.5).abs().mean()))
    assert far[0] > 1.2 * far[1] > 1.2 * 1.2 * far[2]
