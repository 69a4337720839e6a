from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from ldm.diffusion.denoiser import Denoiser, Estimate
from ldm.diffusion.prediction import CleanPrediction
from ldm.diffusion.schedule import RectifiedFlowSchedule, ScaledLinearSchedule
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.sampler.noise import SeededNoise
from ldm.sampler.unipc import UniPC
from tests.guidance.models import SCHEDULE, Mixture, MixtureDenoiser, T, X, denoiser, flow_to, given
from tests.sampler.kinds import DETERMINISTIC, STOCHASTIC


def test_classifier_free_guidance_is_the_formula_and_scale_one_is_none():
    network = denoiser()
    wanted, free = (NoGuidance().wrap(given(network, value))(X, T).clean for value in (3.0, 1.0))
    for scale in (0.0, 0.5, 4.0):
        got = ClassifierFreeGuidance(scale).wrap(given(network, 3.0, 1.0))(X, T).clean
        torch.testing.assert_close(got, free + scale * (wanted - free))
    assert torch.equal(ClassifierFreeGuidance(1.0).wrap(given(network, 3.0, 1.0))(X, T).clean, wanted)


@pytest.mark.parametrize(
    "schedule", [ScaledLinearSchedule(), RectifiedFlowSchedule()], ids=lambda part: type(part).__name__
)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_guided_trajectories_of_gaussians_end_where_the_closed_form_says(kind, options, order, schedule):
    """Of N(m, v) against N(0, v), guidance by a scale gives the exact denoiser of N(scale m, v)."""
    scale, count = 3.0, 6
    guided = ClassifierFreeGuidance(scale).wrap(given(denoiser(schedule), 0.8, 0.0, count))
    got = kind(800 if order == 1 else 300, **options).sample(guided, schedule, SeededNoise(range(count)), (1, 4, 4))
    torch.testing.assert_close(got, flow_to(scale * 0.8, schedule, count), atol=0.02, rtol=0)


@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_guided_stochastic_samplers_have_the_statistics_that_the_closed_form_says(kind, options):
    guided = ClassifierFreeGuidance(3.0).wrap(given(denoiser(), 0.8, 0.0, 10))
    got = kind(120 if "churn" in options else 250, **options).sample(
        guided, SCHEDULE, SeededNoise(range(10)), (1, 30, 30)
    )
    assert float(got.mean()) == pytest.approx(3 * 0.8, abs=0.04)
    assert float(got.var()) == pytest.approx(0.5, rel=0.1)


def test_guided_trajectory_of_a_mixture_agrees_with_an_integration_of_its_known_scores():
    mixture, scale = Mixture(SCHEDULE), 2.5
    guided = ClassifierFreeGuidance(scale).wrap(
        given(Denoiser(MixtureDenoiser(mixture), SCHEDULE, CleanPrediction()), 1.0, 0.0, 4)
    )
    got = UniPC(400, order=3).sample(guided, SCHEDULE, SeededNoise(range(4)), (1, 8, 8))
    x = SeededNoise(range(4)).draw((1, 8, 8)).double()

    def slope(x, t):
        """dx / dt of the guided probability flow."""
        (alpha, sigma), step = SCHEDULE.exact(t), 1e-6
        rates = [(b - a) / (2 * step) for a, b in zip(SCHEDULE.exact(t - step), SCHEDULE.exact(t + step))]
        free, wanted = mixture.whole(x, alpha, sigma), mixture.component(x, alpha, sigma, 1)
        clean = free + scale * (wanted - free)
        return rates[0] * clean + rates[1] * (x - alpha * clean) / sigma

    times = torch.linspace(1 - 1e-5, 0.002, 1000, dtype=torch.float64)
    for t, s in pairwise(times):  # Runge and Kutta's
        h = s - t
        a = slope(x, t)
        b = slope(x + h / 2 * a, t + h / 2)
        c = slope(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, s))
    alpha, sigma = SCHEDULE.exact(times[-1])
    free, wanted = mixture.whole(x, alpha, sigma), mixture.component(x, alpha, sigma, 1)
    torch.testing.assert_close(got.double(), free + scale * (wanted - free), atol=0.01, rtol=0)


def test_outside_of_its_interval_there_is_no_guidance_at_half_the_cost():
    network = denoiser()
    guided = ClassifierFreeGuidance(4.0, interval=(0.3, 0.7)).wrap(given(network, 3.0, 1.0))
    whole = ClassifierFreeGuidance(4.0).wrap(given(network, 3.0, 1.0))
    plain = NoGuidance().wrap(given(network, 3.0))
    for time, same in ((0.2, plain), (0.5, whole), (0.9, plain)):
        t = torch.full((2,), time)
        network.backbone.sizes.clear()
        torch.testing.assert_close(guided(X, t).clean, same(X, t).clean)
        assert network.backbone.sizes[0] == (4 if same is whole else 2)


def test_rescaled_guidance_has_the_deviation_of_the_conditional_estimate():
    network = torch.nn.Module()
    network.forward = None
    torch.manual_seed(1)
    parts = {1.0: torch.randn(2, 4, 8, 8), 0.0: torch.randn(2, 4, 8, 8)}

    def denoise(x_t, t, condition):
        return Estimate(torch.cat([parts[1.0], parts[0.0]]) if len(condition.tokens) == 4 else parts[1.0])

    here = given(denoise, 1.0, 0.0)
    x = torch.zeros(2, 4, 8, 8)
    full = ClassifierFreeGuidance(5.0, rescale=1.0).wrap(here)(x, T).clean
    torch.testing.assert_close(full.flatten(1).std(1), parts[1.0].flatten(1).std(1))
    none, half = (ClassifierFreeGuidance(5.0, rescale=share).wrap(here)(x, T).clean for share in (0.0, 0.5))
    torch.testing.assert_close(half, 0.5 * none + 0.5 * full)


@pytest.mark.parametrize("threshold", [1.0, 2.5])
def test_dynamic_thresholding_agrees_with_diffusers(threshold):
    """Each image by its own percentile: one is calm and stays as it is. Theirs knows a threshold of 1 alone."""
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.995, sample_max_value=1e6)
    images = torch.stack([4 * torch.randn(4, 8, 8), torch.randn(4, 8, 8), 0.01 * torch.randn(4, 8, 8)])

    def denoise(x_t, t, condition):
        return Estimate(torch.cat([images, torch.zeros_like(images)])[: len(condition.tokens)])

    guided = ClassifierFreeGuidance(1.5, threshold=threshold).wrap(given(denoise, 1.0, 0.0, count=3))
    got = guided(torch.zeros_like(images), torch.full((3,), 0.6)).clean
    expected = threshold * scheduler._threshold_sample(1.5 * images / threshold)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got[2], 1.5 * images[2])
    alone = ClassifierFreeGuidance(1.0, threshold=threshold).wrap(given(denoise, 1.0, 0.0, count=3))
    got = alone(torch.zeros_like(images), torch.full((3,), 0.6)).clean
    torch.testing.assert_close(got, threshold * scheduler._threshold_sample(images / threshold))


def test_learned_variance_is_that_of_what_is_wanted():
    def denoise(x_t, t, condition):
        return Estimate(x_t, condition.tokens[:, :, :, None].expand_as(x_t))

    assert (ClassifierFreeGuidance(3.0).wrap(given(denoise, 3.0, 1.0))(X, T).variance == 3).all()
