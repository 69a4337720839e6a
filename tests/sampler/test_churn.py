import math
from itertools import pairwise

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from ldm.diffusion.denoiser import Estimate
from ldm.sampler.churn import Churn
from ldm.sampler.euler import Euler
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from ldm.sampler.trajectory import Trajectory
from tests.sampler.cases import SCHEDULES, noise_levels_at
from tests.sampler.gaussian import Gaussian
from tests.sampler.toolbox import OPTIONS, OURS, START


@pytest.mark.parametrize("low", [0.05, 1.0])
def test_churn_agrees_with_diffusers(low, same_noise):
    """Of a network that says the same everywhere: theirs asks it before the noise is added. Theirs work with x_t / alpha_t."""
    output = torch.randn(START.shape)
    scheduler = EulerDiscreteScheduler(**OPTIONS, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    sampler = Euler(10, churn=Churn(3.0, low=low, high=8.0, noise=1.1))
    trajectory = Trajectory(None, OURS, SeededNoise([0]), START.shape[1:], "cpu")
    trajectory.estimate = lambda x, noise_level: Estimate((x - noise_level.sigma * output) / noise_level.alpha)
    noise_levels = noise_levels_at(OURS, *[1 - place / 10 for place in range(11)])
    ours, theirs = noise_levels[0].alpha * START, START
    for (here, there), time in zip(pairwise(noise_levels), scheduler.timesteps, strict=True):
        scheduler.scale_model_input(theirs, time)  # it wants to be called
        step = scheduler.step(output, time, theirs, s_churn=3.0, s_tmin=low, s_tmax=8.0, s_noise=1.1)
        ours, theirs = sampler.step(ours, here, there, trajectory), step.prev_sample
        torch.testing.assert_close(ours / there.alpha, theirs, atol=2e-3, rtol=1e-3)


def test_pure_noise_is_not_churned():
    churn = Churn(10.0, high=math.inf)
    for schedule in SCHEDULES:
        got = Heun(13, churn=churn).sample(Gaussian(schedule, 0.5), schedule, SeededNoise([1]), (1, 4, 4))
        assert got.isfinite().all()
