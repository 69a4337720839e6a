"""Small exact networks, and a timestep sampler of given times, for the tests of losses."""

import torch

from ldm.diffusion.timestep_sampler import TimestepSampler


def map_of(values):
    return values[:, None, None, None]


class Perfect(torch.nn.Module):
    """The exact noise prediction for data from N(0, variance)."""

    def __init__(self, schedule, variance):
        super().__init__()
        self.schedule, self.data_variance = schedule, variance

    def forward(self, x_t, t, condition):
        alpha, sigma = (map_of(p) for p in self.schedule.alpha_sigma(t))
        return sigma * x_t / (alpha**2 * self.data_variance + sigma**2)


class Exact(torch.nn.Module):
    """The exact denoiser of N(0, variance) data as a network says it, times a weight to be trained, and a learned variance."""

    def __init__(self, schedule, prediction, variance):
        super().__init__()
        self.schedule, self.prediction, self.data_variance = schedule, prediction, variance
        self.weight, self.fraction = (torch.nn.Parameter(torch.tensor(value)) for value in (1.0, 0.2))

    def forward(self, x_t, t, condition):
        alpha, sigma = (map_of(part) for part in self.schedule.alpha_sigma(t))
        clean = alpha * self.data_variance / (alpha**2 * self.data_variance + sigma**2) * x_t
        output = self.prediction.target(clean, (x_t - alpha * clean) / sigma, alpha, sigma)
        return torch.cat([self.weight * output, self.fraction.expand_as(output)], dim=1)


class Says(torch.nn.Module):
    """The estimate of the noise of another network, as a network says it whose output means something else."""

    def __init__(self, noise, schedule, prediction):
        super().__init__()
        self.noise, self.schedule, self.prediction = noise, schedule, prediction

    def forward(self, x_t, t, condition):
        alpha, sigma = (map_of(part) for part in self.schedule.alpha_sigma(t))
        noise = self.noise(x_t)
        return self.prediction.target((x_t - sigma * noise) / alpha, noise, alpha, sigma)


class Uncertain(torch.nn.Module):
    """The exact noise prediction for N(0, 1) data, and a number for each time that says how large the variance is."""

    def __init__(self, schedule):
        super().__init__()
        self.perfect = Perfect(schedule, 1.0)
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.fraction = torch.nn.Parameter(torch.zeros(1000))

    def forward(self, x_t, t, condition):
        fraction = map_of(self.fraction[(t * 1000).round().long() - 1]).expand_as(x_t)
        return torch.cat([self.perfect(x_t, t, condition) + self.bias, 2 * fraction - 1], dim=1)


class Fixed(TimestepSampler):
    """These times."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def sample(self, count, schedule, device):
        return self.times

    def quantile(self, fraction, schedule):
        raise NotImplementedError
