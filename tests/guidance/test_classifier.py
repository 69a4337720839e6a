import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.prediction import CleanPrediction
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier import ClassifierGuidance
from ldm.sampler.ddim import DDIM
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from ldm.sampler.unipc import UniPC
from tests.guidance.models import SCHEDULE, ByPrompt, Mixture, MixtureDenoiser, X, flow_to, given


class MixtureClassifier:
    reader = ByPrompt(float)

    def __init__(self, mixture):
        self.mixture = mixture

    def join(self, autoencoder, schedule):
        assert schedule is self.mixture.schedule

    def log_likelihood(self, x_t, t, fields):
        alpha, sigma = (part[:, None, None, None] for part in self.mixture.schedule.alpha_sigma(t))
        return self.mixture.share(x_t, alpha, sigma).log().flatten(1).sum(1)


@pytest.mark.parametrize("t", [1.0, 0.6, 0.1])
def test_classifier_guidance_with_scale_one_is_the_conditional_denoiser(t):
    """Bayes' rule: for a mixture whose classifier is exact."""
    mixture, t = Mixture(SCHEDULE), torch.full((2,), t)
    network = Denoiser(MixtureDenoiser(mixture), SCHEDULE, CleanPrediction())
    guided = ClassifierGuidance(MixtureClassifier(mixture)).wrap(given(network, 0.0))(X, t).clean
    torch.testing.assert_close(guided, NoGuidance().wrap(given(network, 1.0))(X, t).clean, atol=1e-3, rtol=1e-3)
    assert not guided.requires_grad


@pytest.mark.parametrize("sampler", [DDIM(800), Heun(300), UniPC(200)], ids=lambda part: type(part).__name__)
def test_classifier_guided_trajectories_of_a_mixture_are_those_of_the_component(sampler):
    """From all of the mixture, by an exact classifier, to N(1, v): its flow is known in closed form."""
    mixture = Mixture(SCHEDULE, mean=1.0, variance=0.5)
    network = Denoiser(MixtureDenoiser(mixture), SCHEDULE, CleanPrediction())
    guided = ClassifierGuidance(MixtureClassifier(mixture)).wrap(given(network, 0.0, count=6))
    got = sampler.sample(guided, SCHEDULE, SeededNoise(range(6)), (1, 4, 4))
    torch.testing.assert_close(got, flow_to(1.0, SCHEDULE, 6), atol=0.02, rtol=0)
