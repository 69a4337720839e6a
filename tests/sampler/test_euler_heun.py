import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
)

from ldm.diffusion.prediction import FlowPrediction
from ldm.diffusion.schedule import RectifiedFlowSchedule
from ldm.sampler.euler import Euler, EulerAncestral
from ldm.sampler.heun import Heun
from ldm.sampler.timestep_spacing import TrailingSpacing
from tests.sampler.cases import noise_levels_at
from tests.sampler.gaussian import Between
from tests.sampler.toolbox import OPTIONS, OURS, PREDICTIONS, START, discrete, theirs, trajectory


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [(Euler, EulerDiscreteScheduler), (EulerAncestral, EulerAncestralDiscreteScheduler), (Heun, HeunDiscreteScheduler)],
)
def test_samplers_in_noise_levels_agree_with_diffusers(sampler, scheduler, kind, same_noise):
    """Theirs work with x_t / alpha_t."""
    scheduler = scheduler(**OPTIONS, prediction_type=kind, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    ours = trajectory(sampler(10, timestep_spacing=TrailingSpacing()), OURS, PREDICTIONS[kind], START)
    (first,) = noise_levels_at(OURS, 1.0)
    expected = theirs(scheduler, 10, START / first.alpha / scheduler.init_noise_sigma, discrete, scale=True)
    if sampler is Heun:
        expected = [*expected[1::2], expected[-1]]  # theirs counts each half of a step
    alphas = [noise_level.alpha for noise_level in noise_levels_at(OURS, *[1 - place / 10 for place in range(11)])[1:]]
    for got, wanted, alpha in zip(ours, expected, alphas, strict=True):
        torch.testing.assert_close(got / alpha, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [(Euler, FlowMatchEulerDiscreteScheduler), (Heun, FlowMatchHeunDiscreteScheduler)]
)
def test_flow_samplers_agree_with_diffusers(sampler, scheduler):
    scheduler = scheduler()
    sigmas = [1 - place / 10 for place in range(10)]
    if sampler is Euler:
        scheduler.set_timesteps(sigmas=sigmas)
    else:
        scheduler.set_timesteps(10)
        sigmas = scheduler.sigmas[[0, *range(1, 19, 2)]].tolist()
    ours_grid = Between(1, 0)
    ours_grid.times = lambda steps, schedule: torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    ours = trajectory(sampler(10, timestep_spacing=ours_grid), RectifiedFlowSchedule(), FlowPrediction(), START)
    expected = theirs(scheduler, 10, START, lambda step: float(step) / 1000)
    if sampler is Heun:
        expected = [*expected[1::2], expected[-1]]
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
