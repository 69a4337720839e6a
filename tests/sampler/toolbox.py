"""One network that our samplers and the schedulers of diffusers both take through their steps."""

from itertools import pairwise

import torch

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.prediction import CleanPrediction, VelocityPrediction
from ldm.diffusion.prediction import NoisePrediction as NoisePrediction
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.sampler.base import StartPoint
from ldm.sampler.noise import SeededNoise
from ldm.sampler.trajectory import Trajectory
from tests.parts import noise_levels_at

OPTIONS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OURS = ScaledLinearSchedule(start=0.00085, end=0.012)
PREDICTIONS = {"epsilon": NoisePrediction(), "v_prediction": VelocityPrediction(), "sample": CleanPrediction()}
"""By their names in diffusers. Flows it knows in schedulers of their own, and in multi-step solvers with an option for them; its
ancestral Euler's and Heun's methods do not know clean latents."""


class Network(torch.nn.Module):
    """Some smooth function of x_t and t, to be taken for a prediction."""

    def forward(self, x, t):
        return torch.sin(1.3 * x + 2.0 * t) + 0.2 * x.roll(1, -1)


def trajectory(sampler, schedule, prediction, start):
    """What our sampler makes of x at the first noise level, step by step."""
    network, xs = Network(), []

    def denoise(x_t, t):
        alpha, sigma = (part[:, None, None, None] for part in schedule.alpha_sigma(t))
        return Estimate(prediction.clean(network(x_t, t[:, None, None, None]), x_t, alpha, sigma))

    step = sampler.step
    sampler.step = lambda x, *rest: xs.append(step(x, *rest)) or xs[-1]
    sampler.sample(denoise, schedule, SeededNoise([0]), start.shape[1:], start_point=StartPoint(start=start))
    return xs


def theirs(scheduler, steps, start, time_of, scale=False, network=None):
    """The same with a scheduler of diffusers, which counts time in its own way."""
    network, xs, x = network or Network(), [], start * scheduler.init_noise_sigma if scale else start
    for step in scheduler.timesteps:
        given = scheduler.scale_model_input(x, step) if scale else x
        x = scheduler.step(network(given, time_of(step)), step, x).prev_sample
        xs.append(x)
    return xs


def discrete(step):
    return (float(step) + 1) / 1000


START = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(4))


def step_by_step(sampler, prediction, output, their_step, variance=None):
    """Single steps from one place at each of the times, with the same fresh noise."""
    trajectory = Trajectory(None, OURS, SeededNoise([0]), START.shape[1:], "cpu")
    for here, there in pairwise(noise_levels_at(OURS, *[1 - place / 20 for place in range(21)])):
        if variance is not None and not there.sigma:
            return  # theirs adds noise to the last image
        expected = their_step(round(here.t * 1000) - 1)
        clean = prediction.clean(output, START, here.alpha, here.sigma)
        trajectory.estimate = lambda x, noise_level, clean=clean: Estimate(clean, variance)
        got = sampler.step(START, here, there, trajectory)
        torch.testing.assert_close(got, expected.prev_sample, atol=3e-4, rtol=1e-4)
