import pytest
import torch

from ldm.diffusion.posterior import posterior
from ldm.diffusion.schedule import ScaledLinearSchedule


def test_posterior_is_bayes_rule():
    """x_t = (alpha_t / alpha_s) x_s + noise, x_s = alpha_s x + sigma_s z: products of Gaussians, done numerically."""
    alphas, sigmas = (part.tolist() for part in ScaledLinearSchedule().exact(torch.tensor([0.4, 0.3])))
    of_noisy, of_clean, lower, upper = posterior(alphas[0], sigmas[0], alphas[1], sigmas[1])
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    x, x_t, ratio = 0.7, -0.4, alphas[0] / alphas[1]
    log = -((grid - alphas[1] * x) ** 2) / (2 * sigmas[1] ** 2)
    log = log - (x_t - ratio * grid) ** 2 / (2 * (sigmas[0] ** 2 - ratio**2 * sigmas[1] ** 2))
    weight = torch.softmax(log, 0)
    mean = float((weight * grid).sum())
    assert of_noisy * x_t + of_clean * x == pytest.approx(mean, abs=1e-6)
    assert lower == pytest.approx(float((weight * (grid - mean) ** 2).sum()), rel=1e-5)
    assert upper == pytest.approx(sigmas[0] ** 2 - ratio**2 * sigmas[1] ** 2)
    assert lower < upper
