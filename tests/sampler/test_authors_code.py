"""The options with which samples are those of the paper's own code, which is written down here by its formulas."""

import numpy as np
import pytest
import torch

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.sampler.base import StartPoint
from ldm.sampler.ddim import DDIM
from ldm.sampler.noise import SeededNoise
from ldm.sampler.plms import PLMS
from ldm.sampler.timestep_spacing import LeadingSpacing

SCHEDULE = ScaledLinearSchedule(start=0.00085, end=0.012)
PRODUCTS = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2)
NOISE = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(4))


def network(x, step):
    """Some smooth function, taken for the predicted noise at a discrete timestep, counted from 0."""
    return torch.sin(1.3 * x + 2.0 * (step + 1) / 1000) + 0.2 * x.roll(1, -1)


def tables(steps):
    """Return their timesteps, and the products of alphas at each and at the one before."""
    times = np.arange(0, 1000, 1000 // steps) + 1
    here = PRODUCTS[times]
    return times, here, np.concatenate([PRODUCTS[:1], here[:-1]])


def move(x, noise, here, before):
    clean = (x - (1 - here) ** 0.5 * noise) / here**0.5
    return before**0.5 * clean + (1 - before) ** 0.5 * noise


def authors_ddim(x, steps, *, last=None):
    times, here, before = tables(steps)
    for place in reversed(range(len(times) if last is None else last)):
        x = move(x, network(x, int(times[place])), here[place], before[place])
    return x


def authors_plms(x, steps):
    times, here, before = tables(steps)
    old = []
    for place in reversed(range(len(times))):
        noise = network(x, int(times[place]))
        if not old:
            following = network(move(x, noise, here[place], before[place]), int(times[max(place - 1, 0)]))
            mixed = (noise + following) / 2
        elif len(old) == 1:
            mixed = (3 * noise - old[-1]) / 2
        elif len(old) == 2:
            mixed = (23 * noise - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mixed = (55 * noise - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        old = [*old[-2:], noise]
        x = move(x, mixed, here[place], before[place])
    return x


def denoise(x_t, t):
    alpha, sigma = (part[:, None, None, None] for part in SCHEDULE.alpha_sigma(t))
    step = float(t[0]) * 1000 - 1
    return Estimate((x_t - sigma * network(x_t, step)) / alpha)


def ours(sampler, start_point):
    return sampler.sample(denoise, SCHEDULE, SeededNoise([0, 1]), NOISE.shape[1:], start_point=start_point)


def spacing(steps, *, noisy_end=True):
    return LeadingSpacing(offset=1, stride=1000 // steps, noisy_end=noisy_end)


@pytest.mark.parametrize(("steps", "made"), [(20, 20), (50, 50), (30, 31), (60, 63), (75, 77)])
@pytest.mark.parametrize(("kind", "theirs"), [(DDIM, authors_ddim), (PLMS, authors_plms)])
def test_samples_are_those_of_their_code_also_where_it_makes_more_steps_than_asked(kind, theirs, steps, made):
    assert len(tables(steps)[0]) == made
    sampler = kind(made, timestep_spacing=spacing(steps))
    torch.testing.assert_close(ours(sampler, StartPoint(start=NOISE)), theirs(NOISE, steps), atol=1e-5, rtol=1e-5)


def test_they_end_in_a_little_noise():
    clean = ours(DDIM(50, timestep_spacing=spacing(50, noisy_end=False)), StartPoint(start=NOISE))
    assert 0.005 < float((clean - authors_ddim(NOISE, 50)).square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("strength", [0.75, 0.39])
def test_image_to_image_is_that_of_their_code(strength):
    """It rounds 19.5 of 50 steps down, and adds the noise of the step before the first one."""
    image = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    last = int(strength * 50)
    level = tables(50)[1][last]
    noise = SeededNoise([0, 1]).draw(NOISE.shape[1:])
    expected = authors_ddim(level**0.5 * image + (1 - level) ** 0.5 * noise, 50, last=last)
    sampler = DDIM(50, timestep_spacing=spacing(50))
    got = ours(sampler, StartPoint(init=image, strength=strength, compvis=True))
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got, ours(sampler, StartPoint(init=image, strength=strength)), atol=1e-3)


def test_what_their_code_cannot_is_refused():
    image = torch.zeros(2, 2, 4, 4)
    with pytest.raises(ValueError, match="compvis=true needs a strength below 1"):
        ours(DDIM(20, timestep_spacing=spacing(20)), StartPoint(init=image, strength=1.0, compvis=True))
    with pytest.raises(ValueError, match="timestep_spacing.offset=0 cannot be"):
        LeadingSpacing(offset=0, noisy_end=True)
