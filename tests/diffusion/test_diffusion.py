import math
import re
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ldm.batch import Condition
from ldm.config import CONFIGS, build, compose
from ldm.diffusion import weighting as weightings
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.distance import Absolute, Huber, Squared
from ldm.diffusion.loss import DenoisingLoss
from ldm.diffusion.posterior import posterior
from ldm.diffusion.prediction import Clean, Flow, Noise, Velocity
from ldm.diffusion.schedule import (
    EDM,
    Cosine,
    DDPMLinear,
    Linear,
    RectifiedFlow,
    Shifted,
    Sigmoid,
    VariancePreserving,
    ZeroTerminal,
)
from ldm.diffusion.times import Cosh, LogitNormal, LogNormal, Times, Uniform
from ldm.diffusion.weighting import P2, SNR, Constant, MinSNR, SoftMinSNR

CPU = torch.device("cpu")
SCHEDULES = [
    Linear(),
    DDPMLinear(),
    Cosine(),
    Sigmoid(),
    RectifiedFlow(),
    EDM(),
    ZeroTerminal(Linear()),
    ZeroTerminal(Sigmoid()),
    ZeroTerminal(Shifted(Linear(), shift=2.0)),
    Shifted(Linear(), shift=2.0),
    Shifted(RectifiedFlow(), shift=3.0),
]
PREDICTIONS = [Noise(), Clean(), Velocity(), Flow()]
TIMES = [Uniform(), LogitNormal(), LogNormal(), Cosh()]
GRID = torch.arange(1, 1001) / 1000


def name(part):
    inner = getattr(part, "schedule", None)
    return type(part).__name__ + (f"-{name(inner)}" if inner is not None else "")


def map_of(values):
    return values[:, None, None, None]


# schedules


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_schedule_laws(schedule):
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    alpha, sigma = schedule.exact(t)
    torch.testing.assert_close(alpha**schedule.power + sigma**schedule.power, torch.ones_like(t))
    assert float(sigma[0]) <= 0.004
    assert (sigma.diff() > 0).all(), "between grid points, too, noise only grows"
    assert (alpha.diff() <= 0).all()
    assert schedule.log_snr(t).diff()[1:-1].max() < 0, "the signal-to-noise ratio only falls"
    assert sigma.square().diff().max() < 4e-3, "no jumps"
    assert (float(alpha[-1]) == 0) == schedule.ends_in_noise
    assert all(part.dtype == torch.float32 for part in schedule.alpha_sigma(t))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_time_is_the_inverse_of_the_log_snr(schedule):
    t = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, atol=1e-7, rtol=0)
    ends = schedule.time(torch.tensor([math.inf, -math.inf], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *(
            (Linear(start=start, end=end), {"beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end})
            for start, end in [(0.0015, 0.0195), (0.00085, 0.012), (0.0015, 0.0155)]
        ),
        (DDPMLinear(), {"beta_schedule": "linear"}),
        (Cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_discrete_schedules_agree_with_diffusers_at_grid_points(ours, theirs):
    expected = DDPMScheduler(**theirs).alphas_cumprod
    alpha, sigma = ours.alpha_sigma(GRID)
    torch.testing.assert_close(alpha**2, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(sigma**2, 1 - expected, atol=1e-6, rtol=0)


def test_zero_terminal_agrees_with_diffusers():
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    theirs = DDIMScheduler(**options, rescale_betas_zero_snr=True).alphas_cumprod
    alpha, _ = ZeroTerminal(Linear(start=0.00085, end=0.012)).alpha_sigma(GRID)
    torch.testing.assert_close(alpha**2, theirs, atol=1e-5, rtol=0)


def test_shifted_flow_agrees_with_diffusers_and_shifts_compose():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    _, sigma = Shifted(RectifiedFlow(), shift=3.0).alpha_sigma(GRID.flip(0))
    torch.testing.assert_close(sigma, theirs.sigmas[:1000], atol=1e-6, rtol=0)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for schedule in (Linear(), RectifiedFlow()):
        twice = Shifted(Shifted(schedule, shift=2.0), shift=0.25)
        torch.testing.assert_close(twice.exact(t), Shifted(schedule, shift=0.5).exact(t))
        lower = schedule.log_snr(t) - Shifted(schedule, shift=2.0).log_snr(t)
        torch.testing.assert_close(lower, torch.full_like(t, 2 * math.log(2.0)))


def test_edm_has_its_noise_levels():
    """Table 1 of the paper, for data of twice its standard deviation."""
    t = torch.linspace(0, 1, 18, dtype=torch.float64)
    alpha, sigma = EDM().exact(t)
    index = torch.arange(18).flip(0)
    expected = (80 ** (1 / 7) + index / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma / alpha, 2 * expected.double(), rtol=1e-5, atol=0)


def test_sigmoid_is_the_papers_formula():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    start, end = torch.tensor([-3.0, 3.0], dtype=torch.float64).sigmoid()
    gamma = (end - torch.sigmoid(t * 6 - 3)) / (end - start)
    torch.testing.assert_close(Sigmoid().exact(t)[0] ** 2, gamma, atol=1.1e-4, rtol=0)
    start, end = torch.tensor([0.0, 3 / 0.7], dtype=torch.float64).sigmoid()
    gamma = (end - torch.sigmoid(t * 3 / 0.7)) / (end - start)
    torch.testing.assert_close(Sigmoid(start=0.0, temperature=0.7).exact(t)[0] ** 2, gamma, atol=1.1e-4, rtol=0)


def test_schedules_refuse_nonsense():
    for schedule in (Linear, DDPMLinear):
        with pytest.raises(ValueError, match="0 < start <= end < 1"):
            schedule(start=0.1, end=0.01)
    with pytest.raises(ValueError, match="0 < start <= end < 1"):
        Cosine(largest=1.0)
    with pytest.raises(ValueError, match="shift is a ratio"):
        Shifted(Linear(), shift=0)
    with pytest.raises(ValueError, match="RectifiedFlow has nothing left"):
        ZeroTerminal(RectifiedFlow())
    with pytest.raises(ValueError, match="smallest < largest"):
        EDM(smallest=3, largest=2)
    with pytest.raises(ValueError, match="start < end"):
        Sigmoid(start=3, end=-3)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), ZeroTerminal(Linear()), Shifted(RectifiedFlow(), shift=2)])
def test_noise_is_not_predicted_where_nothing_else_is_left(schedule):
    with pytest.raises(ValueError, match="use prediction=velocity, flow or clean"):
        Denoiser(torch.nn.Identity(), schedule, Noise())


# predictions


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_prediction_round_trip(prediction, schedule):
    x, z = torch.randn(2, 64, 4, 8, 8, dtype=torch.float64)
    t = torch.rand(64) * 0.98 + 0.01
    if prediction.tells_from_noise:
        t[0] = 1.0
    alpha, sigma = (map_of(part) for part in schedule.exact(t))
    target = prediction.target(x, z, alpha, sigma)
    torch.testing.assert_close(prediction.clean(target, alpha * x + sigma * z, alpha, sigma), x)
    wrong = prediction.clean(target + 1e-3, alpha * x + sigma * z, alpha, sigma) - x
    ratio = 1e-6 / wrong.square().flatten(1).mean(1)
    torch.testing.assert_close(ratio, prediction.gain(alpha, sigma).flatten())


@pytest.mark.parametrize(("ours", "theirs"), [(Noise(), "epsilon"), (Clean(), "sample"), (Velocity(), "v_prediction")])
def test_prediction_agrees_with_diffusers(ours, theirs):
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, prediction_type=theirs, clip_sample=False
    )
    x_t, output = torch.randn(2, 1, 4, 8, 8)
    alpha, sigma = Linear().alpha_sigma(torch.tensor(600 / 1000))
    expected = scheduler.step(output, 599, x_t).pred_original_sample
    torch.testing.assert_close(ours.clean(output, x_t, alpha, sigma), expected, atol=1e-4, rtol=1e-4)


def test_velocity_is_the_direction_of_edms_output():
    """With data of unit variance, EDM's network predicts minus the velocity, and its input scaling is ours."""
    x, z = torch.randn(2, 32, 4, 8, 8, dtype=torch.float64)
    alpha, sigma = (map_of(part) for part in EDM().exact(torch.rand(32)))
    level = sigma / alpha
    c_in, c_out, c_skip = (level**2 + 1) ** -0.5, level * (level**2 + 1) ** -0.5, 1 / (level**2 + 1)
    noised = x + level * z
    torch.testing.assert_close(c_in * noised, alpha * x + sigma * z)
    torch.testing.assert_close((x - c_skip * noised) / c_out, -Velocity().target(x, z, alpha, sigma))


# times


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("schedule", [Linear(), RectifiedFlow()], ids=name)
def test_uniform_times(schedule, stratified):
    times = Uniform(stratified=stratified)
    drawn = torch.cat([times.sample(50, schedule, CPU) for _ in range(2000)])
    if schedule.steps:
        torch.testing.assert_close(drawn * 1000, (drawn * 1000).round(), atol=1e-3, rtol=0)
    assert drawn.min() > 0
    assert drawn.max() <= 1
    counts = torch.histc(drawn, bins=10, min=0, max=1) / len(drawn)
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.005, rtol=0)
    assert Uniform(continuous=True).sample(100, Linear(), CPU).mul(1000).frac().max() > 0.01


@pytest.mark.parametrize("times", TIMES, ids=name)
def test_stratified_times_take_one_from_each_part_over_all_processes(times, monkeypatch):
    schedule, world, count = EDM(), 4, 8
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
    drawn = []
    for rank in range(world):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        drawn.append(times.sample(count, schedule, CPU))
    edges = times.quantile(torch.arange(1, world * count, dtype=torch.float64) / (world * count), schedule)
    assert sorted(torch.bucketize(torch.cat(drawn).double(), edges).tolist()) == list(range(world * count))


def test_times_have_their_distributions():
    count = 100_000
    logit = torch.logit(LogitNormal(mean=0.5, deviation=0.7).sample(count, RectifiedFlow(), CPU).double())
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(logit.std()) == pytest.approx(0.7, rel=0.01)
    level = -0.5 * EDM().log_snr(LogNormal().sample(count, EDM(), CPU))
    assert float(level.mean()) == pytest.approx(-1.2 + math.log(2), abs=0.02)
    assert float(level.std()) == pytest.approx(1.2, rel=0.01)
    on_cosine = EDM().log_snr(Cosh().sample(count, EDM(), CPU))
    shares = 2 / math.pi * torch.atan(torch.exp(-0.5 * on_cosine))  # uniform on the cosine schedule
    torch.testing.assert_close(
        torch.histc(shares, 10, 0, 1) / count, torch.full((10,), 0.1).double(), atol=0.003, rtol=0
    )


@pytest.mark.parametrize("times", TIMES, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_all_times_serve_all_schedules(times, schedule):
    drawn = times.sample(256, schedule, CPU)
    assert drawn.dtype == torch.float32
    assert ((drawn > 0) & (drawn <= 1)).all()


# weightings


@pytest.mark.parametrize("weighting", [SNR(), MinSNR(gamma=3), SoftMinSNR(), P2(), weightings.EDM()], ids=name)
def test_the_same_estimate_has_the_same_loss_whatever_is_predicted(weighting):
    alpha, sigma = Linear().exact(torch.linspace(0.01, 1, 50))
    snr = (alpha / sigma) ** 2
    of_clean = [
        weighting.weight(snr, prediction.gain(alpha, sigma)) * prediction.gain(alpha, sigma)
        for prediction in PREDICTIONS
    ]
    for weight in of_clean[1:]:
        torch.testing.assert_close(weight, of_clean[0])


def test_weightings_are_their_formulas_and_meet_in_their_limits():
    alpha, sigma = Linear().exact(torch.linspace(0.01, 1, 50))
    snr = (alpha / sigma) ** 2
    one = torch.ones_like(snr)
    noise, velocity = Noise().gain(alpha, sigma), Velocity().gain(alpha, sigma)
    torch.testing.assert_close(SNR().weight(snr, noise), one)
    torch.testing.assert_close(weightings.EDM().weight(snr, velocity), one)
    torch.testing.assert_close(MinSNR(gamma=5).weight(snr, noise), snr.clamp(max=5) / snr)
    torch.testing.assert_close(MinSNR(gamma=5).weight(snr, velocity), snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(MinSNR(gamma=1e9).weight(snr, noise), one)
    torch.testing.assert_close(P2(gamma=0).weight(snr, noise), one)
    torch.testing.assert_close(P2(gamma=1, k=1).weight(snr, noise), 1 / (1 + snr))
    soft, hard = SoftMinSNR(gamma=5).weight(snr, one), MinSNR(gamma=5).weight(snr, one)
    assert (soft < hard).all()
    assert (soft > hard / 2 - 1e-9).all(), "at most half of it is lost, at the bend"
    torch.testing.assert_close(soft, snr * 5 / (snr + 5))
    torch.testing.assert_close(Constant().weight(snr, noise), one)
    for weighting in (MinSNR, SoftMinSNR):
        with pytest.raises(ValueError, match="gamma is a signal-to-noise ratio and positive"):
            weighting(gamma=0)
    with pytest.raises(ValueError, match="gamma is a power and not negative"):
        P2(gamma=-1)


# distances and the loss


def test_distances():
    output, target = torch.randn(2, 1000)
    error = (output - target).abs()
    torch.testing.assert_close(Squared().between(output, target), error**2)
    torch.testing.assert_close(Absolute().between(output, target), error)
    huber = Huber(delta=0.5).between(output, target)
    torch.testing.assert_close(huber, torch.where(error < 0.5, error**2, error - 0.25))
    torch.testing.assert_close(Huber(delta=1e3).between(output, target), error**2)
    with pytest.raises(ValueError, match="delta"):
        Huber(delta=0)


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


WEIGHTINGS = [Constant(), SNR(), MinSNR(gamma=3), SoftMinSNR(), P2(), weightings.EDM()]


@pytest.mark.parametrize("times", TIMES, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_loss_of_the_exact_denoiser_is_the_known_remainder(schedule, times):
    """By every prediction, schedule, weighting and distribution of times; and its gradients are finite."""
    variance, count = 2.5, 1000
    x = torch.randn(count, 1, 6, 6) * variance**0.5
    t = times.quantile((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000, schedule)
    alpha, sigma = schedule.exact(t.clamp(min=1e-5))
    remainder = variance * sigma**2 / (alpha**2 * variance + sigma**2)
    for prediction in PREDICTIONS:
        if schedule.ends_in_noise and not prediction.tells_from_noise:
            continue
        network = Exact(schedule, prediction, variance)
        denoiser = Denoiser(network, schedule, prediction, learned_variance=True)
        gain = prediction.gain(alpha, sigma)
        for weighting in WEIGHTINGS:
            loss = DenoisingLoss(times, weighting, Squared(), variational_weight=0.0)(denoiser, x, Condition()).detach()
            expected = (weighting.weight((alpha / sigma) ** 2, gain) * gain * remainder).mean()
            assert loss.shape == (count,)
            assert float(loss.mean()) == pytest.approx(float(expected), rel=0.04), (name(prediction), name(weighting))
        hybrid = DenoisingLoss(times, Constant(), Squared())(denoiser, x, Condition()).mean()
        gradients = torch.autograd.grad(hybrid, [network.weight, network.fraction])
        assert all(part.isfinite() for part in (hybrid, *gradients))
        assert gradients[1] != 0


class Shrinks(torch.nn.Module):
    """The estimate 0.3 x_t of the clean latent, as a network says it whose output means something else."""

    def __init__(self, schedule, prediction):
        super().__init__()
        self.schedule, self.prediction = schedule, prediction

    def forward(self, x_t, t, condition):
        alpha, sigma = (map_of(part) for part in self.schedule.alpha_sigma(t))
        clean = 0.3 * x_t
        return self.prediction.target(clean, (x_t - alpha * clean) / sigma, alpha, sigma)


@pytest.mark.parametrize("distance", [Squared(), Absolute(), Huber(delta=0.1)], ids=name)
@pytest.mark.parametrize("weighting", [SNR(), MinSNR(gamma=3), SoftMinSNR(), P2(), weightings.EDM()], ids=name)
def test_by_any_distance_the_same_estimate_has_the_same_loss(distance, weighting):
    schedule, x = Linear(), torch.randn(64, 2, 4, 4)
    loss, losses = DenoisingLoss(Uniform(), weighting, distance), []
    for prediction in PREDICTIONS:
        torch.manual_seed(1)
        losses.append(loss(Denoiser(Shrinks(schedule, prediction), schedule, prediction), x, Condition()))
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-3, atol=1e-4)
    assert losses[0].min() > 0


def test_a_weight_is_one_of_squared_errors():
    """A distance that grows as the error itself is weighted by the root."""
    schedule, x = Linear(), torch.randn(64, 2, 4, 4)
    losses = {}
    for distance in (Squared(), Absolute()):
        for weighting in (Constant(), MinSNR(gamma=3)):
            torch.manual_seed(1)
            loss = DenoisingLoss(Uniform(), weighting, distance)
            losses[name(distance), name(weighting)] = loss(Denoiser(Recorder(), schedule, Noise()), x, Condition())
    squared = losses["Squared", "MinSNR"] / losses["Squared", "Constant"]
    torch.testing.assert_close(losses["Absolute", "MinSNR"] / losses["Absolute", "Constant"], squared.sqrt())


class Recorder(torch.nn.Module):
    """Predicts nothing and remembers what it saw."""

    def forward(self, x_t, t, condition):
        self.x_t, self.t = x_t, t
        return torch.zeros_like(x_t)


def test_noise_offset_is_one_number_a_channel():
    schedule, recorder = Linear(), Recorder()
    loss = DenoisingLoss(Uniform(), Constant(), Squared(), noise_offset=0.5)
    loss(Denoiser(recorder, schedule, Noise()), torch.zeros(500, 3, 16, 16), Condition())
    _, sigma = schedule.alpha_sigma(recorder.t)
    z = recorder.x_t / map_of(sigma)
    assert float(z.mean((2, 3)).std()) == pytest.approx((0.5**2 + 1 / 256) ** 0.5, rel=0.05)
    assert float((z - z.mean((2, 3), keepdim=True)).std()) == pytest.approx(1, rel=0.01)


# learned variance


def test_posterior_is_bayes_rule():
    """x_t = (alpha_t / alpha_s) x_s + noise, x_s = alpha_s x + sigma_s z: products of Gaussians, done numerically."""
    alphas, sigmas = (part.tolist() for part in Linear().exact(torch.tensor([0.4, 0.3])))
    of_noisy, of_clean, lower, upper = posterior(alphas[0], sigmas[0], alphas[1], sigmas[1])
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    x, x_t, ratio = 0.7, -0.4, alphas[0] / alphas[1]
    log = -((grid - alphas[1] * x) ** 2) / (2 * sigmas[1] ** 2)
    log = log - (x_t - ratio * grid) ** 2 / (2 * (sigmas[0] ** 2 - ratio**2 * sigmas[1] ** 2))
    weight = torch.softmax(log, 0)
    mean = float((weight * grid).sum())
    assert of_noisy * x_t + of_clean * x == pytest.approx(mean, abs=1e-6)
    assert lower == pytest.approx(float((weight * (grid - mean) ** 2).sum()), rel=1e-5)
    assert upper == pytest.approx(sigmas[0] ** 2 - ratio**2 * sigmas[1] ** 2)
    assert lower < upper


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


def test_learned_variance_finds_the_true_one():
    """Of N(0, 1) data, x_s given x_t has the variance of the upper bound, so the fraction becomes 1."""
    schedule = Linear()
    network = Uncertain(schedule)
    denoiser = Denoiser(network, schedule, Noise(), learned_variance=True)
    loss = DenoisingLoss(Uniform(), Constant(), Squared(), variational_weight=1.0)
    optimizer = torch.optim.Adam([network.fraction], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(denoiser, torch.randn(256, 1, 8, 8), Condition()).mean().backward()
        optimizer.step()
    late = network.fraction.detach()[100:]
    assert float(late.median()) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Sigmoid()], ids=name)
def test_the_variational_bound_is_the_divergence_of_two_gaussians(schedule):
    """In nats a number, times the number of steps, as torch's own distributions have it; of the first step nothing."""
    network, x = Seen(), torch.randn(64, 2, 4, 4)
    denoiser = Denoiser(network, schedule, Velocity(), learned_variance=True)
    losses = []
    for weight in (0.0, 0.01):
        torch.manual_seed(3)
        times = Fixed(torch.linspace(0.001, 1, 64))
        losses.append(DenoisingLoss(times, Constant(), Squared(), variational_weight=weight)(denoiser, x, Condition()))
    got = (losses[1] - losses[0]).double() / 0.01
    t = torch.linspace(0.001, 1, 64)
    at_t = [map_of(part) for part in schedule.exact(t)]
    at_s = [map_of(part) for part in schedule.exact((t - 0.001).clamp(min=0.0005))]
    step = posterior(*at_t, *at_s)
    x_t, output, share = (part.double() for part in (network.x_t, network.output, network.share))
    variance = (share * step.upper.log() + (1 - share) * step.lower.log()).exp()
    truth, model = (
        torch.distributions.Normal(step.of_noisy * x_t + step.of_clean * clean, deviation)
        for clean, deviation in (
            (x.double(), step.lower.sqrt().expand_as(x)),
            (Velocity().clean(output, x_t, *at_t), variance.sqrt()),
        )
    )
    expected = 1000 * torch.distributions.kl_divergence(truth, model).flatten(1).mean(1)
    torch.testing.assert_close(got[1:], expected[1:], rtol=0.01, atol=0.05)
    assert float(got[0]) == 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_gradients_of_a_learned_variance_are_finite_at_the_earliest_times(schedule):
    network = Exact(schedule, Clean(), 1.0)
    denoiser = Denoiser(network, schedule, Clean(), learned_variance=True)
    early = Fixed(torch.tensor([1e-5, 0.0005, 0.001, 0.0015, 0.002]))
    loss = DenoisingLoss(early, MinSNR(), Squared())(denoiser, torch.randn(5, 1, 4, 4), Condition()).mean()
    gradients = torch.autograd.grad(loss, [network.weight, network.fraction])
    assert all(part.isfinite() for part in (loss, *gradients))


class Seen(torch.nn.Module):
    """A guess, and what it saw and said."""

    def forward(self, x_t, t, condition):
        self.x_t, self.output, self.share = x_t, 0.5 * x_t.cos(), torch.sigmoid(x_t.roll(1, 0))
        return torch.cat([self.output, 2 * self.share - 1], dim=1)


class Fixed(Times):
    """These times."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def sample(self, count, schedule, device):
        return self.times

    def quantile(self, share, schedule):
        raise NotImplementedError


def test_the_variational_bound_trains_the_variance_alone():
    schedule = Linear()
    network = Uncertain(schedule)
    denoiser = Denoiser(network, schedule, Noise(), learned_variance=True)
    x = torch.randn(64, 1, 8, 8)
    gradients = []
    for weight in (0.0, 10.0):
        torch.manual_seed(3)
        loss = DenoisingLoss(Uniform(), Constant(), Squared(), variational_weight=weight)
        gradients.append(torch.autograd.grad(loss(denoiser, x, Condition()).mean(), [network.bias, network.fraction]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert float(gradients[0][1].abs().max()) == 0
    assert float(gradients[1][1].abs().max()) > 0


@pytest.mark.parametrize(
    "group",
    ["schedule", "prediction", "weighting", "times", "distance", "grid", "sampler", "guidance", "optimizer"],
)
def test_every_choice_of_a_group_builds(group):
    for file in (CONFIGS / group).glob("*.yaml"):
        if file.stem in ("autoguidance", "classifier", "likeness", "clip"):  # need files; see tests/test_sample.py
            continue
        target = "optimizer@stage.diffusion.optimizer" if group == "optimizer" else group
        config = compose("train", ["experiment=txt2img", f"{target}={file.stem}"])
        made = build(config.stage.diffusion.optimizer if group == "optimizer" else config[group])
        assert made is not None
        if group != "optimizer":
            assert re.search(r"Paper: .*\d{4}", type(made).__doc__, re.DOTALL) or file.stem == "none", (
                "it names its source"
            )


@pytest.mark.parametrize("choice", ["zero_terminal", "shifted"])
def test_a_schedule_made_of_another_one_takes_any(choice):
    overrides = [f"schedule={choice}", "schedule@schedule.schedule=ddpm_linear", "prediction=velocity"]
    made = build(compose("train", ["experiment=txt2img", *overrides]).schedule)
    assert isinstance(made.schedule, DDPMLinear)


@pytest.mark.parametrize("grid", sorted(path.stem for path in (CONFIGS / "grid").glob("*.yaml")))
def test_every_sampler_goes_along_the_grid_that_is_chosen(grid):
    for file in (CONFIGS / "sampler").glob("*.yaml"):
        config = compose("sample", ["ckpt=none", f"sampler={file.stem}", f"grid={grid}"])
        assert type(build(config.sampler).grid) is type(build(config.grid)), file.stem


def test_variance_preserving_is_what_it_says():
    for schedule in SCHEDULES:
        if isinstance(schedule, VariancePreserving):
            assert schedule.power == 2
    assert [a.steps for a in SCHEDULES] == [1000, 1000, 1000, None, None, None, 1000, None, 1000, 1000, None]
    assert all(early > late for early, late in pairwise(Linear().log_snr(GRID).tolist()))
