import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ldm.diffusion.prediction import FlowPrediction
from ldm.diffusion.schedule import RectifiedFlowSchedule
from ldm.sampler.ddim import DDIM
from ldm.sampler.timestep_spacing import LeadingSpacing, TrailingSpacing
from tests.sampler.toolbox import OPTIONS, OURS, PREDICTIONS, START, discrete, step_by_step, theirs, trajectory


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_agrees_with_diffusers_on_both_grids(kind):
    for spacing, grid, options in (
        ("trailing", TrailingSpacing(), {}),
        ("leading", LeadingSpacing(), {"steps_offset": 1}),
    ):
        scheduler = DDIMScheduler(
            **OPTIONS,
            prediction_type=kind,
            timestep_spacing=spacing,
            clip_sample=False,
            set_alpha_to_one=True,
            **options,
        )
        scheduler.set_timesteps(20)
        ours = trajectory(DDIM(20, timestep_spacing=grid), OURS, PREDICTIONS[kind], START)
        expected = theirs(scheduler, 20, START, discrete)
        pairs = list(zip(ours, expected, strict=True))
        for got, wanted in pairs[:-1] if spacing == "leading" else pairs:  # theirs ends at its first time, ours at 0
            torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_stochastic_ddim_step_agrees_with_diffusers(eta, kind, same_noise):
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    scheduler = DDIMScheduler(**OPTIONS, **options, prediction_type=kind)
    scheduler.set_timesteps(20)
    output = torch.randn(START.shape)
    step_by_step(
        DDIM(20, eta=eta), PREDICTIONS[kind], output, lambda step: scheduler.step(output, step, START, eta=eta)
    )


def test_ddim_with_nothing_but_new_noise_agrees_with_diffusers_on_flows(same_noise):
    """The most that eta can ask for."""
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=[1 - place / 10 for place in range(10)])
    ours = trajectory(DDIM(10, eta=1e6), RectifiedFlowSchedule(), FlowPrediction(), START)
    expected = theirs(scheduler, 10, START, lambda step: float(step) / 1000)
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
