import math

import pytest
import torch

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.prediction import CleanPrediction, FlowPrediction, VelocityPrediction
from ldm.diffusion.prediction import NoisePrediction as NoisePrediction
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.sampler.ddim import DDIM
from ldm.sampler.ddpm import DDPM
from ldm.sampler.dpmpp import DPMPP2M, DPMPP2MSDE
from ldm.sampler.euler import Euler, EulerAncestral
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from ldm.sampler.plms import PLMS
from ldm.sampler.unipc import UniPC
from tests.parts import SCHEDULES, SPACINGS, name
from tests.sampler.gaussian import Gaussian
from tests.sampler.kinds import EVERY, STOCHASTIC


@pytest.mark.slow
@pytest.mark.parametrize("grid", SPACINGS, ids=name)
@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_mean_and_variance_are_reproduced_along_every_grid(kind, options, grid):
    schedule = ScaledLinearSchedule()
    data = Gaussian(schedule, 0.5, mean=1.5)
    sampler = kind(120 if "churn" in options else 250, timestep_spacing=grid, **options)
    got = sampler.sample(data, schedule, SeededNoise(range(10)), (1, 30, 30))
    assert float(got.mean()) == pytest.approx(1.5, abs=0.04)
    assert float(got.var()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_stochastic_samplers_reproduce_mean_and_variance(kind, options, schedule):
    data = Gaussian(schedule, 0.5, mean=1.5)
    steps = 250 if "churn" in options else 300  # its times are searched for, which takes long
    got = kind(steps, **options).sample(data, schedule, SeededNoise(range(10)), (1, 40, 40))
    assert float(got.mean()) == pytest.approx(1.5, abs=0.03)
    assert float(got.var()) == pytest.approx(0.5, rel=0.06)


class Correlated:
    """The exact denoiser of N(0, covariance) data of several channels."""

    def __init__(self, schedule, covariance):
        self.schedule, self.covariance = schedule, covariance

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule.alpha_sigma(t[:1])
        inverse = torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.covariance)))
        return Estimate(torch.einsum("ij,bjhw->bihw", alpha * self.covariance @ inverse, x_t))


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_covariance_is_reproduced(kind, options):
    covariance = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.7, -0.3], [0.0, -0.3, 0.5]])
    schedule = ScaledLinearSchedule()
    got = kind(300, **options).sample(Correlated(schedule, covariance), schedule, SeededNoise(range(10)), (3, 40, 40))
    torch.testing.assert_close(torch.cov(got.transpose(0, 1).flatten(1)), covariance, atol=0.04, rtol=0)


class Wrong:
    """The denoiser of N(1, 1) whose network errs by 0.02, a fixed field of x_t and t; a part of the batch for each prediction."""

    def __init__(self, schedule):
        self.schedule = schedule
        predictions = NoisePrediction(), VelocityPrediction(), FlowPrediction(), CleanPrediction()
        self.predictions = [one for one in predictions if one.tells_from_noise or not schedule.zero_terminal_snr]
        self.phase = 2 * math.pi * torch.rand(64, 64, generator=torch.Generator().manual_seed(0))

    def __call__(self, x_t, t):
        alpha, sigma = (part[:1, None, None, None] for part in self.schedule.alpha_sigma(t))
        clean = Gaussian(self.schedule, 1.0, mean=1.0)(x_t, t).clean
        noise = (x_t - alpha * clean) / sigma
        error = 0.02 * 2**0.5 * torch.sin(3 * x_t + 20 * t[:, None, None, None] + self.phase)
        estimates = []
        for prediction, *parts in zip(self.predictions, clean, noise, x_t, error):
            x, z, noisy, off = (part[None] for part in parts)
            output = prediction.target(x, z, alpha, sigma) + off
            estimates.append(prediction.clean(output, noisy, alpha, sigma))
        return Estimate(torch.cat(estimates))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("kind", [DDPM, DDIM, Euler, EulerAncestral, Heun, PLMS, DPMPP2M, DPMPP2MSDE, UniPC])
def test_a_slightly_wrong_network_gives_slightly_wrong_samples(kind, schedule):
    """Whatever is predicted. Of EDM, ancestral Euler's 50 steps alone lose a tenth."""
    wrong = Wrong(schedule)
    got = kind(50).sample(wrong, schedule, SeededNoise(range(len(wrong.predictions))), (1, 64, 64))
    for prediction, samples in zip(wrong.predictions, got, strict=True):
        assert float(samples.mean()) == pytest.approx(1, abs=0.1), name(prediction)
        assert float(samples.std()) == pytest.approx(1, abs=0.15), name(prediction)
