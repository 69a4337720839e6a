"""Small exact denoisers, classifiers and scores that the tests of guidance use."""

import torch

from ldm.batch import Condition
from ldm.conditioner.base import Conditioner
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.prediction import CleanPrediction
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.guidance.base import NoGuidance
from ldm.guidance.context import GuidanceContext
from ldm.sampler.dpmpp import DPMPP2M
from ldm.sampler.noise import SeededNoise
from tests.sampler.gaussian import Gaussian

SCHEDULE = ScaledLinearSchedule()

X, T = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.6, 0.6])


class Means(torch.nn.Module):
    """Predicts clean latents of data from N(token, variance), the token being given by the condition."""

    def __init__(self, schedule, variance):
        super().__init__()
        self.schedule, self.data_variance = schedule, variance
        self.sizes = []
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x_t, t, condition):
        self.sizes.append(len(x_t))
        mean = condition.tokens[:, :1, :1, None]
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        gain = alpha * self.data_variance / (alpha**2 * self.data_variance + sigma**2)
        return self.weight * (mean + gain * (x_t - alpha * mean))


class Pixels(torch.nn.Identity):
    """An autoencoder whose latents are the images."""

    def image(self, latent):
        return latent

    def same_latents(self, other):
        return isinstance(other, Pixels)


def given(denoiser, wanted, free=0.0, count=2):
    conditions = (Condition(tokens=torch.full((count, 1, 1), value)) for value in (wanted, free))
    return GuidanceContext(denoiser, *conditions, ["a prompt"] * count, Pixels())


def denoiser(schedule=SCHEDULE, variance=0.5):
    return Denoiser(Means(schedule, variance), schedule, CleanPrediction())


def with_and_without(guidance, prompts, size):
    """An image of a size for each prompt, guided and not, from the same noise."""
    here, seeds = given(denoiser(), 0.0, count=len(prompts))._replace(prompts=prompts), range(len(prompts))
    return [
        DPMPP2M(10).sample(kind.wrap(here), SCHEDULE, SeededNoise(seeds), (3, size, size))
        for kind in (guidance, NoGuidance())
    ]


def flow_to(mean, schedule, count):
    """Where the probability flow of N(mean, 0.5) data carries the noise of the first seeds."""
    start = SeededNoise(range(count)).draw((1, 4, 4)).double()
    return Gaussian(schedule, 0.5, mean=mean).flow(start, *torch.tensor([1.0, 0.0], dtype=torch.float64)).float()


class Mixture:
    """N(m, v) with the probability 1/2, N(-m, v) with the rest: every estimate and score is known."""

    def __init__(self, schedule, mean=1.0, variance=0.1):
        self.schedule, self.mean, self.variance = schedule, mean, variance

    def component(self, x_t, alpha, sigma, sign):
        total = alpha**2 * self.variance + sigma**2
        return sign * self.mean + alpha * self.variance / total * (x_t - sign * alpha * self.mean)

    def share(self, x_t, alpha, sigma):
        """Probability of the first component given x_t."""
        return torch.sigmoid(2 * alpha * self.mean * x_t / (alpha**2 * self.variance + sigma**2))

    def whole(self, x_t, alpha, sigma):
        share = self.share(x_t, alpha, sigma)
        return share * self.component(x_t, alpha, sigma, 1) + (1 - share) * self.component(x_t, alpha, sigma, -1)


class MixtureDenoiser(torch.nn.Module):
    """Clean latents of a mixture: of its first component where the token is 1, of all where it is 0."""

    def __init__(self, mixture):
        super().__init__()
        self.mixture = mixture
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x_t, t, condition):
        alpha, sigma = (part[:, None, None, None] for part in self.mixture.schedule.alpha_sigma(t))
        first = self.mixture.component(x_t, alpha, sigma, 1)
        return torch.where(condition.tokens[:, :1, :1, None] > 0, first, self.mixture.whole(x_t, alpha, sigma))


class Near:
    """Images near to a number."""

    def __init__(self, wanted, std):
        self.wanted, self.std = wanted, std

    def log_likelihood(self, image, prompts):
        return -0.5 * ((image - self.wanted) / self.std).square().flatten(1).sum(1)


class ByPrompt(Conditioner):
    """One token, a number that a function gives for the caption."""

    inputs = ("caption",)

    def __init__(self, number):
        super().__init__()
        self.number = number

    def prepare(self, samples):
        pass

    def forward(self, fields):
        return Condition(tokens=torch.tensor([self.number(text) for text in fields["caption"]])[:, None, None])

    null = with_dropout = forward


class Weak(torch.nn.Module):
    """A text-to-image model, as far as autoguidance knows it."""

    def __init__(self, denoiser, token):
        super().__init__()
        self.denoiser, self.token = denoiser, token
        self.autoencoder = Pixels()
        self.conditioner = ByPrompt(lambda prompt: token)


class SpelledScore:
    """A score whose prompts are numbers."""

    def log_likelihood(self, image, prompts):
        wanted = torch.tensor([float(prompt) for prompt in prompts])[:, None, None, None]
        return -(image - wanted).square().sum((1, 2, 3))


class Spelled:
    """A classifier whose prompts are numbers."""

    reader = ByPrompt(float)

    def join(self, autoencoder, schedule):
        pass

    def log_likelihood(self, x_t, t, fields):
        return SpelledScore().log_likelihood(x_t, fields["caption"])


def spelling_weak():
    weak = Weak(denoiser(variance=0.9), 0.0)
    weak.conditioner = ByPrompt(float)
    return weak
