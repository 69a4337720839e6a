import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from ldm.batch import Condition
from ldm.diffusion.schedule import Linear
from ldm.sampler.ddim import DDIM
from ldm.sampler.ddpm import DDPM
from ldm.sampler.guidance import ClassifierFree, Unguided
from ldm.sampler.noise import Noise

SCHEDULE = Linear()
OPTIONS = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}


def gaussian(variance, mean=0.0):
    """The exact clean estimate for data from N(mean, variance)."""

    def denoise(x_t, t):
        alpha, sigma = (p[:, None, None, None] for p in SCHEDULE.alpha_sigma(t))
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x_t - alpha * mean)

    return denoise


def flow(x_t, t, s, variance):
    """Where the probability flow of N(0, variance) data carries x_t from t to s: every point keeps its quantile."""

    def deviation(time):
        alpha, sigma = SCHEDULE.alpha_sigma(time)
        return torch.sqrt(alpha**2 * variance + sigma**2)

    return x_t * deviation(s) / deviation(t)


def no_noise():
    raise AssertionError("a deterministic sampler draws no noise on its way")


def test_ddim_converges_with_order_one():
    """Between t = 1 and 0.1: towards t = 0 the flow is not smooth in t, and log(steps) / steps is what is left."""
    variance, errors = 0.25, []
    start = torch.randn(8, 1, 4, 4)
    for steps in (32, 64, 128, 256):
        x, sampler = start, DDIM(steps)
        times = torch.linspace(1, 0.1, steps + 1, dtype=torch.float64)
        for t, s in pairwise(times):
            x = sampler.step(x, gaussian(variance)(x, t.expand(8)), t, s, SCHEDULE, no_noise)
        errors.append(float((x - flow(start, times[0], times[-1], variance)).abs().mean()))
    orders = [math.log2(before / after) for before, after in pairwise(errors)]
    assert all(0.9 < order < 1.1 for order in orders), (errors, orders)


def test_ddim_reaches_the_end_of_the_flow():
    start, ends = Noise(range(8)).draw((1, 4, 4)), torch.tensor([1.0, 0.0])
    got = DDIM(1000).sample(gaussian(0.25), SCHEDULE, Noise(range(8)), (1, 4, 4))
    torch.testing.assert_close(got, flow(start, *ends, 0.25), atol=0.02, rtol=0)


@pytest.mark.parametrize("sampler", [DDPM(1000), DDIM(1000, eta=1.0), DDIM(400, eta=0.5), DDIM(200)])
def test_samples_have_the_mean_and_variance_of_gaussian_data(sampler):
    got = sampler.sample(gaussian(0.5, mean=1.5), SCHEDULE, Noise(range(40)), (1, 40, 40))
    assert float(got.mean()) == pytest.approx(1.5, abs=0.03)
    assert float(got.var()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_steps_agree_with_diffusers(eta):
    scheduler = DDIMScheduler(**OPTIONS, timestep_spacing="trailing", set_alpha_to_one=True)
    scheduler.set_timesteps(20)
    sampler = DDIM(20, eta=eta)
    x, fresh, output = torch.randn(3, 2, 4, 8, 8)
    for place, step in enumerate(scheduler.timesteps):
        t, s = (
            torch.tensor(1 - place / 20, dtype=torch.float64),
            torch.tensor(1 - (place + 1) / 20, dtype=torch.float64),
        )
        expected = scheduler.step(output, int(step), x, eta=eta, variance_noise=fresh)
        got = sampler.step(x, expected.pred_original_sample, t, s, SCHEDULE, lambda: fresh)
        torch.testing.assert_close(got, expected.prev_sample, atol=1e-4, rtol=1e-4)


def test_ddpm_steps_agree_with_diffusers(monkeypatch):
    scheduler = DDPMScheduler(**OPTIONS, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    x, fresh, output = torch.randn(3, 2, 4, 8, 8)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: fresh)
    for place, step in enumerate(scheduler.timesteps):
        t, s = (
            torch.tensor(1 - place / 20, dtype=torch.float64),
            torch.tensor(1 - (place + 1) / 20, dtype=torch.float64),
        )
        expected = scheduler.step(output, int(step), x)
        got = DDPM(20).step(x, expected.pred_original_sample, t, s, SCHEDULE, lambda: fresh)
        torch.testing.assert_close(got, expected.prev_sample, atol=1e-4, rtol=1e-4)


def test_eta_one_is_ddpm():
    got = [s.sample(gaussian(0.3), SCHEDULE, Noise([5, 6]), (1, 4, 4)) for s in (DDPM(50), DDIM(50, eta=1.0))]
    torch.testing.assert_close(*got, atol=1e-3, rtol=0)


def test_noise_belongs_to_the_seed_bitwise():
    alone, together = Noise([7]), Noise([3, 7, 9])
    for _ in range(3):
        assert torch.equal(alone.draw((4, 8, 8))[0], together.draw((4, 8, 8))[1])
    assert not torch.equal(Noise([1]).draw((4,)), Noise([2]).draw((4,)))


class Linear2(torch.nn.Module):
    """A denoiser whose estimate is its first token, plus x_t."""

    def forward(self, x_t, t, condition):
        return x_t + condition.tokens[:, :1, :1, None]


def test_guidance_is_the_formula_and_scale_one_is_none():
    given, free = Condition(tokens=torch.full((2, 1, 1), 3.0)), Condition(tokens=torch.full((2, 1, 1), 1.0))
    x_t, t = torch.randn(2, 1, 4, 4), torch.ones(2)
    results = {s: ClassifierFree(s).wrap(Linear2(), given, free)(x_t, t) for s in (0.0, 1.0, 4.0)}
    torch.testing.assert_close(results[0.0], x_t + 1)
    torch.testing.assert_close(results[4.0], x_t + 1 + 4 * 2)
    torch.testing.assert_close(results[1.0], Unguided().wrap(Linear2(), given, free)(x_t, t), rtol=0, atol=0)


def test_samplers_refuse_nonsense():
    with pytest.raises(ValueError, match="at least 1 step"):
        DDIM(0)
    with pytest.raises(ValueError, match="eta"):
        DDIM(5, eta=-1)
