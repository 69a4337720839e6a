from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.sampler.ddpm import DDPM
from ldm.sampler.noise import SeededNoise
from tests.sampler.gaussian import Gaussian
from tests.sampler.toolbox import OPTIONS, PREDICTIONS, START, step_by_step


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_with_the_true_variance_few_steps_of_ddpm_keep_that_of_the_data(fraction):
    """x_s given x_t of N(0, 1) data has the variance of the upper bound; with that of the lower one, some is lost."""
    schedule, xs = ScaledLinearSchedule(), []
    data, sampler = Gaussian(schedule, 1.0), DDPM(5)
    step = sampler.step
    sampler.step = lambda x, *rest: xs.append(step(x, *rest)) or xs[-1]

    def denoise(x_t, t):
        return Estimate(data(x_t, t).clean, torch.full_like(x_t, fraction))

    sampler.sample(denoise, schedule, SeededNoise(range(10)), (1, 60, 60))
    variances = [float(x.var()) for x in xs[:-1]]
    if fraction == 1.0:
        assert variances == pytest.approx([1.0] * 4, abs=0.03)
    else:
        assert all(after < before - 0.03 for before, after in pairwise(variances))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_ddpm_step_agrees_with_diffusers(variance_type, kind, same_noise):
    options = {"timestep_spacing": "trailing", "clip_sample": False}
    scheduler = DDPMScheduler(**OPTIONS, **options, prediction_type=kind, variance_type=variance_type)
    scheduler.set_timesteps(20)
    output, raw = torch.randn(2, *START.shape)
    learned = variance_type == "learned_range"
    given = torch.cat([output, raw], 1) if learned else output
    variance = 0.5 * (raw + 1) if learned else None
    step_by_step(
        DDPM(20), PREDICTIONS[kind], output, lambda step: scheduler.step(given, step, START), variance=variance
    )
