"""Data whose exact denoiser and probability flow are known in closed form."""

import torch

from ldm.diffusion.denoiser import Estimate
from ldm.sampler.timestep_spacing import TimestepSpacing


class Gaussian:
    """Independent numbers from N(mean, variance)."""

    def __init__(self, schedule, variance, mean=0.0):
        self.schedule, self.variance, self.mean = schedule, variance, mean

    def __call__(self, x_t, t):
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.exact(t.double()))
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return Estimate((self.mean + gain * (x_t - alpha * self.mean)).to(x_t.dtype))

    def std(self, t):
        alpha, sigma = self.schedule.exact(t)
        return torch.sqrt(alpha**2 * self.variance + sigma**2)

    def flow(self, x_t, t, s):
        """Where the probability flow carries x_t from time t to s: every point keeps its quantile."""
        (mean_t, mean_s), (deviation_t, deviation_s) = (
            (self.mean * self.schedule.exact(time)[0] for time in (t, s)),
            (self.std(time) for time in (t, s)),
        )
        return mean_s + (x_t - mean_t) * deviation_s / deviation_t


class Between(TimestepSpacing):
    """Equal steps from one time to another."""

    def __init__(self, first, last):
        self.first, self.last = first, last

    def starts(self, steps, schedule):
        raise NotImplementedError

    def times(self, steps, schedule):
        return torch.linspace(self.first, self.last, steps + 1, dtype=torch.float64)
