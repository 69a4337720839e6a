import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from ldm.batch import Condition
from ldm.diffusion.denoiser import Denoiser, Estimate
from ldm.diffusion.prediction import Clean
from ldm.diffusion.schedule import Linear, RectifiedFlow
from ldm.sampler.base import Way
from ldm.sampler.ddim import DDIM
from ldm.sampler.dpmpp import DPMPP2M
from ldm.sampler.given import Given, Toward
from ldm.sampler.guidance import Autoguidance, Classified, ClassifierFree, Scored, Unguided
from ldm.sampler.heun import Heun
from ldm.sampler.inpainting import hold_known, soft_mask, without_masked
from ldm.sampler.likeness import Likeness
from ldm.sampler.noise import Noise
from ldm.sampler.unipc import UniPC
from tests.sampler.gaussian import Gaussian
from tests.sampler.kinds import DETERMINISTIC, EVERY, STOCHASTIC

SCHEDULE = Linear()
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
    return Given(denoiser, *conditions, ["a prompt"] * count, Pixels())


def denoiser(schedule=SCHEDULE, variance=0.5):
    return Denoiser(Means(schedule, variance), schedule, Clean())


def with_and_without(guidance, prompts, size):
    """An image of a side for each prompt, guided and not, from the same noise."""
    here, seeds = given(denoiser(), 0.0, count=len(prompts))._replace(prompts=prompts), range(len(prompts))
    return [
        DPMPP2M(10).sample(kind.wrap(here), SCHEDULE, Noise(seeds), (3, size, size)) for kind in (guidance, Unguided())
    ]


def test_classifier_free_guidance_is_the_formula_and_scale_one_is_none():
    network = denoiser()
    wanted, free = (Unguided().wrap(given(network, value))(X, T).clean for value in (3.0, 1.0))
    for scale in (0.0, 0.5, 4.0):
        got = ClassifierFree(scale).wrap(given(network, 3.0, 1.0))(X, T).clean
        torch.testing.assert_close(got, free + scale * (wanted - free))
    assert torch.equal(ClassifierFree(1.0).wrap(given(network, 3.0, 1.0))(X, T).clean, wanted)


def test_a_change_of_zero_is_no_guidance():
    """What is wanted is what is not: whatever the scale, the estimate is the conditional one."""
    network = denoiser()
    same = given(network, 3.0, 3.0)
    for guidance in (ClassifierFree(7.0), ClassifierFree(7.0, rescale=0.7), ClassifierFree(7.0, interval=(0.2, 0.5))):
        torch.testing.assert_close(guidance.wrap(same)(X, T).clean, Unguided().wrap(same)(X, T).clean)
    for guidance in (
        Scored(Near(2.0, 1.5), scale=0.0),
        Classified(Spelled(), scale=0.0),
        Autoguidance(Weak(denoiser(variance=0.9), 2.0), scale=1.0),
    ):
        here = given(network, 3.0)._replace(prompts=["1", "2"])
        torch.testing.assert_close(guidance.wrap(here)(X, T).clean, Unguided().wrap(here)(X, T).clean)


@pytest.mark.parametrize("schedule", [Linear(), RectifiedFlow()], ids=lambda part: type(part).__name__)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_guided_trajectories_of_gaussians_end_where_the_closed_form_says(kind, options, order, schedule):
    """Of N(m, v) against N(0, v), guidance by a scale gives the exact denoiser of N(scale m, v)."""
    scale, count = 3.0, 6
    guided = ClassifierFree(scale).wrap(given(denoiser(schedule), 0.8, 0.0, count))
    got = kind(800 if order == 1 else 300, **options).sample(guided, schedule, Noise(range(count)), (1, 4, 4))
    torch.testing.assert_close(got, flow_to(scale * 0.8, schedule, count), atol=0.02, rtol=0)


def flow_to(mean, schedule, count):
    """Where the probability flow of N(mean, 0.5) data carries the noise of the first seeds."""
    start = Noise(range(count)).draw((1, 4, 4)).double()
    return Gaussian(schedule, 0.5, mean=mean).flow(start, *torch.tensor([1.0, 0.0], dtype=torch.float64)).float()


@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_guided_stochastic_samplers_have_the_statistics_that_the_closed_form_says(kind, options):
    guided = ClassifierFree(3.0).wrap(given(denoiser(), 0.8, 0.0, 10))
    got = kind(120 if "churn" in options else 250, **options).sample(guided, SCHEDULE, Noise(range(10)), (1, 30, 30))
    assert float(got.mean()) == pytest.approx(3 * 0.8, abs=0.04)
    assert float(got.var()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("sampler", [DDIM(800), Heun(300), UniPC(200)], ids=lambda part: type(part).__name__)
def test_autoguided_trajectories_of_gaussians_end_where_the_closed_form_says(sampler):
    """Of a model of N(1, v) and a weak one of N(0.4, v): N(0.4 + scale 0.6, v)."""
    here = given(denoiser(), 1.0, count=6)
    guided = Autoguidance(Weak(denoiser(), 0.4), scale=2.5).wrap(here)
    got = sampler.sample(guided, SCHEDULE, Noise(range(6)), (1, 4, 4))
    torch.testing.assert_close(got, flow_to(0.4 + 2.5 * 0.6, SCHEDULE, 6), atol=0.02, rtol=0)


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


def test_guided_trajectory_of_a_mixture_agrees_with_an_integration_of_its_known_scores():
    mixture, scale = Mixture(SCHEDULE), 2.5
    guided = ClassifierFree(scale).wrap(given(Denoiser(MixtureDenoiser(mixture), SCHEDULE, Clean()), 1.0, 0.0, 4))
    got = UniPC(400, order=3).sample(guided, SCHEDULE, Noise(range(4)), (1, 8, 8))
    x = Noise(range(4)).draw((1, 8, 8)).double()

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


class MixtureClassifier:
    def __init__(self, mixture):
        self.mixture = mixture

    def join(self, autoencoder, schedule):
        assert schedule is self.mixture.schedule

    def log_likelihood(self, x_t, t, prompts):
        alpha, sigma = (part[:, None, None, None] for part in self.mixture.schedule.alpha_sigma(t))
        return self.mixture.share(x_t, alpha, sigma).log().flatten(1).sum(1)


@pytest.mark.parametrize("t", [1.0, 0.6, 0.1])
def test_classifier_guidance_with_scale_one_is_the_conditional_denoiser(t):
    """Bayes' rule: for a mixture whose classifier is exact."""
    mixture, t = Mixture(SCHEDULE), torch.full((2,), t)
    network = Denoiser(MixtureDenoiser(mixture), SCHEDULE, Clean())
    guided = Classified(MixtureClassifier(mixture)).wrap(given(network, 0.0))(X, t).clean
    torch.testing.assert_close(guided, Unguided().wrap(given(network, 1.0))(X, t).clean, atol=1e-3, rtol=1e-3)
    assert not guided.requires_grad


@pytest.mark.parametrize("sampler", [DDIM(800), Heun(300), UniPC(200)], ids=lambda part: type(part).__name__)
def test_classifier_guided_trajectories_of_a_mixture_are_those_of_the_component(sampler):
    """From all of the mixture, by an exact classifier, to N(1, v): its flow is known in closed form."""
    mixture = Mixture(SCHEDULE, mean=1.0, variance=0.5)
    network = Denoiser(MixtureDenoiser(mixture), SCHEDULE, Clean())
    guided = Classified(MixtureClassifier(mixture)).wrap(given(network, 0.0, count=6))
    got = sampler.sample(guided, SCHEDULE, Noise(range(6)), (1, 4, 4))
    torch.testing.assert_close(got, flow_to(1.0, SCHEDULE, 6), atol=0.02, rtol=0)


class Near:
    """Images near to a number."""

    def __init__(self, wanted, deviation):
        self.wanted, self.deviation = wanted, deviation

    def log_likelihood(self, image, prompts):
        return -0.5 * ((image - self.wanted) / self.deviation).square().flatten(1).sum(1)


def test_score_guidance_is_the_gradient_through_the_denoiser():
    network = denoiser()
    got = Scored(Near(2.0, 1.5), scale=0.7).wrap(given(network, 0.5))(X, T)
    alpha, sigma = (part[:, None, None, None] for part in SCHEDULE.alpha_sigma(T))
    clean = Unguided().wrap(given(network, 0.5))(X, T).clean
    slope = alpha * 0.5 / (alpha**2 * 0.5 + sigma**2)
    expected = clean + 0.7 * sigma**2 / alpha * slope * (2.0 - clean) / 1.5**2
    torch.testing.assert_close(got.clean, expected)
    assert not got.clean.requires_grad


@pytest.mark.parametrize("sampler", [DDIM(100), Heun(50), UniPC(50)])
def test_score_guidance_leads_to_what_is_wanted(sampler):
    far = []
    for scale in (0.0, 0.3, 1.0):
        guided = Scored(Near(1.5, 0.7), scale=scale).wrap(given(denoiser(), 0.0, count=8))
        far.append(float((sampler.sample(guided, SCHEDULE, Noise(range(8)), (1, 4, 4)) - 1.5).abs().mean()))
    assert far[0] > 1.2 * far[1] > 1.2 * 1.2 * far[2]


class Weak(torch.nn.Module):
    """A text-to-image model, as far as autoguidance knows it."""

    def __init__(self, denoiser, token):
        super().__init__()
        self.denoiser, self.token = denoiser, token
        self.autoencoder = Pixels()
        self.conditioner = torch.nn.Identity()
        self.conditioner.forward = lambda fields: Condition(tokens=torch.full((len(fields["caption"]), 1, 1), token))


def test_autoguidance_leads_away_from_the_worse_model():
    good, bad = denoiser(variance=0.5), denoiser(variance=0.9)
    here = given(good, 2.0)
    better = Unguided().wrap(here)(X, T).clean
    worse = Unguided().wrap(given(bad, 2.0))(X, T).clean
    got = Autoguidance(Weak(bad, 2.0), scale=3.0).wrap(here)(X, T).clean
    torch.testing.assert_close(got, worse + 3 * (better - worse))
    torch.testing.assert_close(Autoguidance(Weak(bad, 2.0), scale=1.0).wrap(here)(X, T).clean, better)
    torch.testing.assert_close(Autoguidance(Weak(good, 2.0), scale=9.0).wrap(here)(X, T).clean, better)
    both = Autoguidance(Weak(bad, 2.0), scale=3.0, guidance=ClassifierFree(2.0)).wrap(here)(X, T).clean
    torch.testing.assert_close(both, worse + 3 * (ClassifierFree(2.0).wrap(here)(X, T).clean - worse))


def test_autoguidance_refuses_a_model_of_other_latents_or_other_noise():
    weak = Weak(denoiser(), 2.0)
    weak.autoencoder.same_latents = lambda other: False
    with pytest.raises(ValueError, match="the weak model belongs to another autoencoder"):
        Autoguidance(weak).wrap(given(denoiser(), 2.0))
    other = Weak(denoiser(Linear(start=0.001)), 2.0)
    with pytest.raises(ValueError, match="another amount of noise; give one with the schedule of the model"):
        Autoguidance(other).wrap(given(denoiser(), 2.0))


class Spelled:
    """A classifier and a score whose prompts are numbers."""

    def join(self, autoencoder, schedule):
        pass

    def log_likelihood(self, image, *rest):
        wanted = torch.tensor([float(prompt) for prompt in rest[-1]])[:, None, None, None]
        return -(image - wanted).square().sum((1, 2, 3))


def spelling_weak():
    weak = Weak(denoiser(variance=0.9), 0.0)
    weak.conditioner.forward = lambda fields: Condition(
        tokens=torch.tensor([float(prompt) for prompt in fields["caption"]])[:, None, None]
    )
    return weak


@pytest.mark.parametrize("guidance", [Autoguidance(spelling_weak()), Classified(Spelled()), Scored(Spelled())])
def test_on_the_way_to_other_prompts_guidance_goes_along(guidance):
    network = denoiser()

    def clean(prompts, toward=None):
        here = given(network, 1.0)._replace(prompts=prompts, toward=toward)
        return guidance.wrap(here)(X, T).clean

    first, last = clean(["1", "1"]), clean(["2", "2"])
    torch.testing.assert_close(
        clean(["1", "1"], Toward(["2", "2"], [0, 0], [0.0, 1.0])), torch.stack([first[0], last[1]])
    )
    assert not torch.allclose(first, last)


def test_outside_of_its_interval_there_is_no_guidance_at_half_the_cost():
    network = denoiser()
    guided = ClassifierFree(4.0, interval=(0.3, 0.7)).wrap(given(network, 3.0, 1.0))
    whole = ClassifierFree(4.0).wrap(given(network, 3.0, 1.0))
    plain = Unguided().wrap(given(network, 3.0))
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
    full = ClassifierFree(5.0, rescale=1.0).wrap(here)(x, T).clean
    torch.testing.assert_close(full.flatten(1).std(1), parts[1.0].flatten(1).std(1))
    none, half = (ClassifierFree(5.0, rescale=share).wrap(here)(x, T).clean for share in (0.0, 0.5))
    torch.testing.assert_close(half, 0.5 * none + 0.5 * full)


@pytest.mark.parametrize("threshold", [1.0, 2.5])
def test_dynamic_thresholding_agrees_with_diffusers(threshold):
    """Each image by its own percentile: one is calm and stays as it is. Theirs knows a threshold of 1 alone."""
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.995, sample_max_value=1e6)
    images = torch.stack([4 * torch.randn(4, 8, 8), torch.randn(4, 8, 8), 0.01 * torch.randn(4, 8, 8)])

    def denoise(x_t, t, condition):
        return Estimate(torch.cat([images, torch.zeros_like(images)])[: len(condition.tokens)])

    guided = ClassifierFree(1.5, threshold=threshold).wrap(given(denoise, 1.0, 0.0, count=3))
    got = guided(torch.zeros_like(images), torch.full((3,), 0.6)).clean
    expected = threshold * scheduler._threshold_sample(1.5 * images / threshold)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got[2], 1.5 * images[2])
    alone = ClassifierFree(1.0, threshold=threshold).wrap(given(denoise, 1.0, 0.0, count=3))
    got = alone(torch.zeros_like(images), torch.full((3,), 0.6)).clean
    torch.testing.assert_close(got, threshold * scheduler._threshold_sample(images / threshold))


def test_learned_variance_is_that_of_what_is_wanted():
    def denoise(x_t, t, condition):
        return Estimate(x_t, condition.tokens[:, :, :, None].expand_as(x_t))

    assert (ClassifierFree(3.0).wrap(given(denoise, 3.0, 1.0))(X, T).variance == 3).all()


def test_guidance_refuses_nonsense():
    for options, message in (
        ({"interval": (0.5, 0.2)}, "low <= high"),
        ({"rescale": 2}, "guidance.rescale=2 cannot be"),
        ({"threshold": 0}, "guidance.threshold=0 cannot be"),
        *(({"scale": scale}, f"guidance.scale={scale} cannot be") for scale in (math.nan, math.inf)),
    ):
        with pytest.raises(ValueError, match=message):
            ClassifierFree(**{"scale": 2.0, **options})
    with pytest.raises(ValueError, match=r"guidance.scale=1e\+30 cannot be; give a finite number"):
        ClassifierFree(1e30)
    with pytest.raises(ValueError, match="guidance.scale=nan cannot be"):
        Scored(None, scale=math.nan)


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_what_is_known_stays_and_the_rest_fits_to_it(kind, options):
    """Data in which all numbers of an image are nearly the same: from half of them the others follow."""

    class Same:
        def __call__(self, x_t, t):
            alpha, sigma = (part[:, None, None, None] for part in SCHEDULE.alpha_sigma(t))
            mean = x_t.mean((1, 2, 3), keepdim=True)
            kept = [v / (alpha**2 * v + sigma**2) * alpha for v in (16.0, 0.01)]  # of the mean, of what is beside it
            return Estimate(kept[0] * mean + kept[1] * (x_t - mean))

    known = torch.tensor([-2.0, 0.5, 1.5])[:, None, None, None].expand(3, 1, 4, 4)
    made = torch.zeros(3, 1, 4, 4)
    made[..., 2:] = 1
    start = known * (1 - made)
    errors = []
    for visits in (1, 8):
        held = hold_known(Same(), start, made)
        got = kind(20, **options).sample(held, SCHEDULE, Noise(range(3)), (1, 4, 4), way=Way(start, visits=visits))
        torch.testing.assert_close(got[..., :2], start[..., :2], atol=1e-6, rtol=0)
        errors.append(float((got[..., 2:] - known[..., 2:]).abs().mean()))
    assert errors[1] < 0.35, "going back and forth, both halves come to agree"
    assert errors[1] < errors[0]


def test_soft_masks_fall_off_over_their_border_and_no_further():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 12:20, 12:20] = 1
    soft = soft_mask(mask, 4)
    assert (soft[mask > 0] == 1).all()
    torch.testing.assert_close(soft[0, 0, 15, 6:13], torch.tensor([0, 0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:24, 8:24] = False
    assert (soft[0, 0][outside] == 0).all()
    assert torch.equal(soft_mask(mask, 0), mask)


def test_an_image_like_a_small_one_is_found():
    """What is wanted is known at a quarter of the side; the rest is free."""
    wanted = torch.rand(3, 2, 2) * 2 - 1
    score = Likeness(wanted, deviation=0.1)
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert float(Likeness(torch.full((3, 2, 2), 0.3)).log_likelihood(flat, [""])) == pytest.approx(0)
    far = Likeness(torch.full((3, 2, 2), 0.1), deviation=0.5).log_likelihood(flat, [""])
    assert float(far) == pytest.approx(-0.5 * 12 * (0.2 / 0.5) ** 2, rel=1e-4)
    network = denoiser(variance=0.3)
    guided = Scored(score).wrap(given(network, 0.0, count=4))
    got = Heun(40).sample(guided, SCHEDULE, Noise(range(4)), (3, 8, 8))
    small = torch.nn.functional.interpolate(got, (2, 2), mode="area")
    free = Heun(40).sample(Unguided().wrap(given(network, 0.0, count=4)), SCHEDULE, Noise(range(4)), (3, 8, 8))
    assert float((small - wanted).abs().mean()) < 0.3 * float((_shrunk(free) - wanted).abs().mean())
    assert not torch.allclose(got[0], got[1], atol=0.1), "many images are like one small one"


def _shrunk(images):
    return torch.nn.functional.interpolate(images, (2, 2), mode="area")


class Brightness(torch.nn.Module):
    """A distance that sees nothing but the mean."""

    def forward(self, a, b):
        return (a.mean((1, 2, 3)) - b.mean((1, 2, 3))).abs()


def test_likeness_by_another_distance():
    score = Likeness(torch.full((3, 2, 2), 0.5), deviation=0.1, distance=Brightness())
    image = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 0.7)])
    torch.testing.assert_close(score.log_likelihood(image, ["", ""]), torch.tensor([0.0, -0.2 / 0.01 / 2]))
    with pytest.raises(ValueError, match="deviation=0 cannot be"):
        Likeness(torch.zeros(3, 2, 2), deviation=0)


@pytest.mark.parametrize("size", [8, 13])
def test_what_is_masked_does_not_show_through(size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, size, size)
    mask[0, :, 2:7, 3:] = 1
    mask[1] = 1
    painted = without_masked(images, mask)
    assert torch.equal(without_masked(torch.where(mask > 0, 100.0, images), mask), painted)
    assert torch.equal(painted * (1 - mask), images * (1 - mask)), "what is not masked stays"
    assert painted[0].abs().amax() <= images[0].abs().amax(), "of the colours around"
    assert torch.equal(painted[1], torch.zeros(3, size, size)), "nothing is known"
    flat = torch.full((1, 3, size, size), 0.3)
    torch.testing.assert_close(without_masked(flat * (1 - mask[:1]), mask[:1]), flat)
