import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.prediction import Clean, Flow, Velocity
from ldm.diffusion.prediction import Noise as NoisePrediction
from ldm.diffusion.schedule import EDM, Cosine, DDPMLinear, Linear, RectifiedFlow, Shifted, Sigmoid, ZeroTerminal
from ldm.sampler.base import Way
from ldm.sampler.churn import Churn
from ldm.sampler.ddim import DDIM
from ldm.sampler.ddpm import DDPM
from ldm.sampler.dpmpp import DPMPP2M, DPMPP2MSDE
from ldm.sampler.euler import Euler, EulerAncestral
from ldm.sampler.grid import Karras, Leading, LogSNR, Quadratic, Trailing, Uniform
from ldm.sampler.heun import Heun
from ldm.sampler.inversion import invert
from ldm.sampler.noise import Noise
from ldm.sampler.path import END, Path
from ldm.sampler.plms import PLMS
from ldm.sampler.unipc import UniPC
from tests.sampler.gaussian import Between, Gaussian
from tests.sampler.kinds import DETERMINISTIC, EVERY, STOCHASTIC

SCHEDULES = [
    Linear(),
    DDPMLinear(),
    Cosine(),
    Sigmoid(),
    RectifiedFlow(),
    EDM(),
    ZeroTerminal(Linear()),
    Shifted(RectifiedFlow(), shift=3.0),
]


def name(part):
    return type(part).__name__


def error_after(kind, options, steps, schedule, first, last):
    """Root mean square distance from the exact end of the flow, in double precision."""
    data = Gaussian(schedule, 0.25, mean=0.5)
    sampler = kind(steps, grid=Between(first, last), **options)
    start = torch.randn(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (knot,) = _knots(schedule, first)
    init = (start - knot.sigma * Noise(range(4)).draw((1, 4, 4))) / (knot.alpha or 1.0)
    got = sampler.sample(data, schedule, Noise(range(4)), (1, 4, 4), way=Way(init))
    ends = torch.tensor([first, last], dtype=torch.float64)
    return float((got - data.flow(start, *ends)).square().mean().sqrt())


def _knots(schedule, *times):
    return Path(None, schedule, Noise([]), (), "cpu").knots(torch.tensor(times, dtype=torch.float64))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_order_of_convergence(kind, options, order, schedule):
    """Away from the ends of time: at t = 0 the flow is not smooth in t, and log(steps) / steps is what is left."""
    errors = [error_after(kind, options, steps, schedule, 0.95, 0.4) for steps in (40, 80, 160)]
    orders = [math.log2(before / after) for before, after in pairwise(errors)]
    higher = kind is PLMS and schedule.power == 1  # equal steps of its own coordinates: no less than third order
    assert order - 0.35 < orders[-1] < order + (2.5 if higher else 0.6), (errors, orders)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_the_end_of_the_flow_is_reached_from_pure_noise(kind, options, order, schedule):
    data, ends = Gaussian(schedule, 0.25, mean=0.5), torch.tensor([1.0, 0.0], dtype=torch.float64)
    got = kind(500, **options).sample(data, schedule, Noise(range(8)), (1, 4, 4))
    expected = data.flow(Noise(range(8)).draw((1, 4, 4)).double(), *ends).float()
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


GRIDS = [Uniform(), Trailing(), Leading(), Quadratic(), Karras(), LogSNR()]


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_the_end_of_the_flow_is_reached_along_every_grid(kind, options, order, grid):
    schedule, steps, start = Linear(), 250, torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    data, first = Gaussian(schedule, 0.25, mean=0.5), float(grid.times(steps, schedule)[0])
    sampler = kind(steps, grid=grid, **options)
    got = sampler.sample(data, schedule, Noise(range(8)), (1, 4, 4), way=Way(start=start))
    expected = data.flow(start.double(), *torch.tensor([first, 0.0], dtype=torch.float64))
    torch.testing.assert_close(got, expected.float(), atol=0.05 if order == 1 else 0.03, rtol=0)


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_mean_and_variance_are_reproduced_along_every_grid(kind, options, grid):
    schedule = Linear()
    data = Gaussian(schedule, 0.5, mean=1.5)
    sampler = kind(120 if "churn" in options else 250, grid=grid, **options)
    got = sampler.sample(data, schedule, Noise(range(10)), (1, 30, 30))
    assert float(got.mean()) == pytest.approx(1.5, abs=0.04)
    assert float(got.var()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(("kind", "options"), STOCHASTIC.values(), ids=STOCHASTIC)
def test_stochastic_samplers_reproduce_mean_and_variance(kind, options, schedule):
    data = Gaussian(schedule, 0.5, mean=1.5)
    steps = 250 if "churn" in options else 400  # its times are searched for, which takes long
    got = kind(steps, **options).sample(data, schedule, Noise(range(10)), (1, 40, 40))
    assert float(got.mean()) == pytest.approx(1.5, abs=0.03)
    assert float(got.var()) == pytest.approx(0.5, rel=0.06)


class Correlated:
    """The exact denoiser of N(0, covariance) data of several channels."""

    def __init__(self, schedule, covariance):
        self.schedule, self.covariance = schedule, covariance

    def __call__(self, x_t, t):
        alpha, sigma = self.schedule.alpha_sigma(t[:1])
        inverse = torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.covariance)))
        return Estimate(torch.einsum("ij,bjhw->bihw", alpha * self.covariance @ inverse, x_t))


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_covariance_is_reproduced(kind, options):
    covariance = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.7, -0.3], [0.0, -0.3, 0.5]])
    schedule = Linear()
    steps = 300 if "churn" in options else 400
    got = kind(steps, **options).sample(Correlated(schedule, covariance), schedule, Noise(range(10)), (3, 40, 40))
    torch.testing.assert_close(torch.cov(got.transpose(0, 1).flatten(1)), covariance, atol=0.04, rtol=0)


class Wrong:
    """The denoiser of N(1, 1) whose network errs by 0.02, a fixed field of x_t and t; a part of the batch for each prediction."""

    def __init__(self, schedule):
        self.schedule = schedule
        predictions = NoisePrediction(), Velocity(), Flow(), Clean()
        self.predictions = [one for one in predictions if one.tells_from_noise or not schedule.ends_in_noise]
        self.phase = 2 * math.pi * torch.rand(64, 64, generator=torch.Generator().manual_seed(0))

    def __call__(self, x_t, t):
        alpha, sigma = (part[:1, None, None, None] for part in self.schedule.alpha_sigma(t))
        clean = Gaussian(self.schedule, 1.0, mean=1.0)(x_t, t).clean
        noise = (x_t - alpha * clean) / sigma
        error = 0.02 * 2**0.5 * torch.sin(3 * x_t + 20 * t[:, None, None, None] + self.phase)
        estimates = []
        for prediction, *parts in zip(self.predictions, clean, noise, x_t, error):
            x, z, noisy, off = (part[None] for part in parts)
            output = prediction.target(x, z, alpha, sigma) + off
            estimates.append(prediction.clean(output, noisy, alpha, sigma))
        return Estimate(torch.cat(estimates))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("kind", [DDPM, DDIM, Euler, EulerAncestral, Heun, PLMS, DPMPP2M, DPMPP2MSDE, UniPC])
def test_a_slightly_wrong_network_gives_slightly_wrong_samples(kind, schedule):
    """Whatever is predicted. Of EDM, ancestral Euler's 50 steps alone lose a tenth."""
    wrong = Wrong(schedule)
    got = kind(50).sample(wrong, schedule, Noise(range(len(wrong.predictions))), (1, 64, 64))
    for prediction, samples in zip(wrong.predictions, got, strict=True):
        assert float(samples.mean()) == pytest.approx(1, abs=0.1), name(prediction)
        assert float(samples.std()) == pytest.approx(1, abs=0.15), name(prediction)


def test_ancestral_samplers_with_all_noise_are_ddpm_number_by_number():
    for schedule in SCHEDULES:
        data = Gaussian(schedule, 0.3)
        samplers = [DDPM(50), DDIM(50, eta=1.0), EulerAncestral(50)]
        got = [s.sample(data, schedule, Noise([5, 6]), (1, 4, 4)) for s in samplers]
        torch.testing.assert_close(got[1], got[0], atol=1e-3, rtol=0)
        torch.testing.assert_close(got[2], got[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_ancestral_samplers_with_some_noise_are_one(eta):
    for schedule in SCHEDULES:
        data = Gaussian(schedule, 0.3, mean=0.2)
        got = [kind(50, eta=eta).sample(data, schedule, Noise([5, 6]), (1, 4, 4)) for kind in (DDIM, EulerAncestral)]
        torch.testing.assert_close(got[1], got[0], atol=1e-4, rtol=0)


def test_samplers_without_noise_are_one():
    for schedule in SCHEDULES:
        data = Gaussian(schedule, 0.3, mean=0.2)
        samplers = [DDIM(20), Euler(20), EulerAncestral(20, eta=0.0), Euler(20, churn=Churn())]
        got = [s.sample(data, schedule, Noise([5, 6]), (1, 4, 4)) for s in samplers]
        for other in got[1:]:
            torch.testing.assert_close(other, got[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_deterministic_samplers_alone_draw_no_noise_on_their_way(kind, options):
    noise, calls = Noise([1]), []
    draw = noise.draw
    noise.draw = lambda *arguments: calls.append(1) or draw(*arguments)
    sampler = kind(5, **options)
    sampler.sample(Gaussian(Linear(), 0.5), Linear(), noise, (1, 4, 4))
    assert (len(calls) > 1) == sampler.draws == ((kind, options) in STOCHASTIC.values())


@pytest.mark.parametrize(
    ("kind", "calls"),
    [*((kind, 10) for kind in (DDIM, DDPM, Euler, EulerAncestral, DPMPP2M, DPMPP2MSDE, UniPC)), (PLMS, 11), (Heun, 19)],
)
def test_number_of_calls_of_the_denoiser(kind, calls):
    data, count = Gaussian(Linear(), 0.5), []
    kind(10).sample(lambda x, t: count.append(1) or data(x, t), Linear(), Noise([1]), (1, 2, 2))
    assert len(count) == calls


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_with_the_true_variance_few_steps_of_ddpm_keep_that_of_the_data(share):
    """x_s given x_t of N(0, 1) data has the variance of the upper bound; with that of the lower one, some is lost."""
    schedule, xs = Linear(), []
    data, sampler = Gaussian(schedule, 1.0), DDPM(5)
    step = sampler.step
    sampler.step = lambda x, *rest: xs.append(step(x, *rest)) or xs[-1]

    def denoise(x_t, t):
        return Estimate(data(x_t, t).clean, torch.full_like(x_t, share))

    sampler.sample(denoise, schedule, Noise(range(10)), (1, 60, 60))
    variances = [float(x.var()) for x in xs[:-1]]
    if share == 1.0:
        assert variances == pytest.approx([1.0] * 4, abs=0.03)
    else:
        assert all(after < before - 0.03 for before, after in pairwise(variances))


# agreement with diffusers

OPTIONS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
OURS = Linear(start=0.00085, end=0.012)
PREDICTIONS = {"epsilon": NoisePrediction(), "v_prediction": Velocity(), "sample": Clean()}
"""By their names in diffusers. Flows it knows in schedulers of their own, and in multi-step solvers that are told so; its
ancestral Euler's and Heun's methods do not know clean latents."""


class Network(torch.nn.Module):
    """Some smooth function of x_t and t, to be taken for a prediction."""

    def forward(self, x, t):
        return torch.sin(1.3 * x + 2.0 * t) + 0.2 * x.roll(1, -1)


def trajectory(sampler, schedule, prediction, start):
    """What our sampler makes of x at the first knot, step by step."""
    network, xs = Network(), []

    def denoise(x_t, t):
        alpha, sigma = (part[:, None, None, None] for part in schedule.alpha_sigma(t))
        return Estimate(prediction.clean(network(x_t, t[:, None, None, None]), x_t, alpha, sigma))

    step = sampler.step
    sampler.step = lambda x, *rest: xs.append(step(x, *rest)) or xs[-1]
    sampler.sample(denoise, schedule, Noise([0]), start.shape[1:], way=Way(start=start))
    return xs


@pytest.fixture
def same_noise(monkeypatch):
    """Schedulers draw what the samplers of `trajectory` and `step_by_step` draw."""
    noise = Noise([0])
    for scheduler in (
        "ddim",
        "ddpm",
        "dpmsolver_multistep",
        "euler_discrete",
        "euler_ancestral_discrete",
        "flow_match_euler_discrete",
    ):
        module = f"diffusers.schedulers.scheduling_{scheduler}"
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: noise.draw(START.shape[1:]))


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


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_ddim_agrees_with_diffusers_on_both_grids(kind):
    for spacing, grid, options in (("trailing", Trailing(), {}), ("leading", Leading(), {"steps_offset": 1})):
        scheduler = DDIMScheduler(
            **OPTIONS,
            prediction_type=kind,
            timestep_spacing=spacing,
            clip_sample=False,
            set_alpha_to_one=True,
            **options,
        )
        scheduler.set_timesteps(20)
        ours = trajectory(DDIM(20, grid=grid), OURS, PREDICTIONS[kind], START)
        expected = theirs(scheduler, 20, START, discrete)
        pairs = list(zip(ours, expected, strict=True))
        for got, wanted in pairs[:-1] if spacing == "leading" else pairs:  # theirs ends at its first time, ours at 0
            torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_stochastic_ddim_step_agrees_with_diffusers(eta, kind, same_noise):
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    scheduler = DDIMScheduler(**OPTIONS, **options, prediction_type=kind)
    scheduler.set_timesteps(20)
    output = torch.randn(START.shape)
    step_by_step(
        DDIM(20, eta=eta), PREDICTIONS[kind], output, lambda step: scheduler.step(output, step, START, eta=eta)
    )


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("variance_type", ["fixed_small", "learned_range"])
def test_ddpm_step_agrees_with_diffusers(variance_type, kind, same_noise):
    options = {"timestep_spacing": "trailing", "clip_sample": False}
    scheduler = DDPMScheduler(**OPTIONS, **options, prediction_type=kind, variance_type=variance_type)
    scheduler.set_timesteps(20)
    output, raw = torch.randn(2, *START.shape)
    learned = variance_type == "learned_range"
    given = torch.cat([output, raw], 1) if learned else output
    variance = 0.5 * (raw + 1) if learned else None
    step_by_step(
        DDPM(20), PREDICTIONS[kind], output, lambda step: scheduler.step(given, step, START), variance=variance
    )


def step_by_step(sampler, prediction, output, their_step, variance=None):
    """Single steps from one place at each of the times, with the same fresh noise."""
    path = Path(None, OURS, Noise([0]), START.shape[1:], "cpu")
    for here, there in pairwise(_knots(OURS, *[1 - place / 20 for place in range(21)])):
        if variance is not None and not there.sigma:
            return  # theirs adds noise to the last image
        expected = their_step(round(here.t * 1000) - 1)
        clean = prediction.clean(output, START, here.alpha, here.sigma)
        path.estimate = lambda x, knot, clean=clean: Estimate(clean, variance)
        got = sampler.step(START, here, there, path)
        torch.testing.assert_close(got, expected.prev_sample, atol=3e-4, rtol=1e-4)


MULTISTEP = {
    "dpmpp_2m": (DPMPP2M, {}, DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_2m_sde": (DPMPP2MSDE, {}, DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc_2": (UniPC, {}, UniPCMultistepScheduler, {"solver_order": 2}),
    "unipc_3": (UniPC, {"order": 3}, UniPCMultistepScheduler, {"solver_order": 3}),
}


def as_far_as_comparable(ours, expected, sampler):
    """Theirs lowers the order of the last but one step, which for order 3 makes a difference."""
    pairs = list(zip(ours, expected, strict=True))
    return pairs[:-2] if getattr(sampler, "order", 2) == 3 else pairs


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize(("sampler", "ours", "scheduler", "options"), MULTISTEP.values(), ids=MULTISTEP)
def test_multistep_solvers_agree_with_diffusers(sampler, ours, scheduler, options, kind, same_noise):
    spacing = {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}
    scheduler = scheduler(**OPTIONS, **options, **spacing, prediction_type=kind)
    scheduler.set_timesteps(14)
    sampler = sampler(14, **ours, grid=Trailing())
    ours = trajectory(sampler, OURS, PREDICTIONS[kind], START)
    expected = theirs(scheduler, 14, START, discrete)
    for got, wanted in as_far_as_comparable(ours, expected, sampler):
        torch.testing.assert_close(got, wanted, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("prediction", [NoisePrediction(), Velocity(), Clean(), Flow()], ids=name)
def test_plms_agrees_with_diffusers(prediction):
    """Ours mixes the noise whatever is predicted; theirs is given the noise that a prediction means. Ours ends as DDIM."""
    options = {"skip_prk_steps": True, "set_alpha_to_one": True, "steps_offset": 1, "timestep_spacing": "leading"}
    scheduler = PNDMScheduler(**OPTIONS, **options)
    scheduler.set_timesteps(20)

    def noise(x, t):
        alpha, sigma = (float(part) for part in OURS.exact(torch.tensor(t)))
        return (x - alpha * prediction.clean(network(x, t), x, torch.tensor(alpha), torch.tensor(sigma))) / sigma

    network = Network()
    ours = trajectory(PLMS(20, grid=Leading()), OURS, prediction, START)
    _, *expected = theirs(scheduler, 20, START, discrete, network=noise)  # the first step is made twice
    for got, wanted in list(zip(ours, expected, strict=True))[:-1]:
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [(Euler, EulerDiscreteScheduler), (EulerAncestral, EulerAncestralDiscreteScheduler), (Heun, HeunDiscreteScheduler)],
)
def test_samplers_in_noise_levels_agree_with_diffusers(sampler, scheduler, kind, same_noise):
    """Theirs work with x_t / alpha_t."""
    scheduler = scheduler(**OPTIONS, prediction_type=kind, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    ours = trajectory(sampler(10, grid=Trailing()), OURS, PREDICTIONS[kind], START)
    (first,) = _knots(OURS, 1.0)
    expected = theirs(scheduler, 10, START / first.alpha / scheduler.init_noise_sigma, discrete, scale=True)
    if sampler is Heun:
        expected = [*expected[1::2], expected[-1]]  # theirs counts each half of a step
    alphas = [knot.alpha for knot in _knots(OURS, *[1 - place / 10 for place in range(11)])[1:]]
    for got, wanted, alpha in zip(ours, expected, alphas, strict=True):
        torch.testing.assert_close(got / alpha, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [(Euler, FlowMatchEulerDiscreteScheduler), (Heun, FlowMatchHeunDiscreteScheduler)]
)
def test_flow_samplers_agree_with_diffusers(sampler, scheduler):
    scheduler = scheduler()
    sigmas = [1 - place / 10 for place in range(10)]
    if sampler is Euler:
        scheduler.set_timesteps(sigmas=sigmas)
    else:
        scheduler.set_timesteps(10)
        sigmas = scheduler.sigmas[[0, *range(1, 19, 2)]].tolist()
    ours_grid = Between(1, 0)
    ours_grid.times = lambda steps, schedule: torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    ours = trajectory(sampler(10, grid=ours_grid), RectifiedFlow(), Flow(), START)
    expected = theirs(scheduler, 10, START, lambda step: float(step) / 1000)
    if sampler is Heun:
        expected = [*expected[1::2], expected[-1]]
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("sampler", "ours", "scheduler", "options"), MULTISTEP.values(), ids=MULTISTEP)
def test_multistep_solvers_on_flows_agree_with_diffusers(sampler, ours, scheduler, options, same_noise):
    scheduler = scheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, **options)
    scheduler.set_timesteps(10)
    grid = Between(1, 0)
    grid.times = lambda steps, schedule: scheduler.sigmas.double()
    sampler = sampler(10, **ours, grid=grid)
    ours = trajectory(sampler, RectifiedFlow(), Flow(), START)
    levels = dict(zip(scheduler.timesteps.tolist(), scheduler.sigmas.tolist(), strict=False))
    expected = theirs(scheduler, 10, START, lambda step: levels[int(step)])
    for got, wanted in as_far_as_comparable(ours, expected, sampler):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("low", [0.05, 1.0])
def test_churn_agrees_with_diffusers(low, same_noise):
    """Of a network that says the same everywhere: theirs asks it before the noise is added. Theirs work with x_t / alpha_t."""
    output = torch.randn(START.shape)
    scheduler = EulerDiscreteScheduler(**OPTIONS, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    sampler = Euler(10, churn=Churn(3.0, low=low, high=8.0, noise=1.1))
    path = Path(None, OURS, Noise([0]), START.shape[1:], "cpu")
    path.estimate = lambda x, knot: Estimate((x - knot.sigma * output) / knot.alpha)
    knots = _knots(OURS, *[1 - place / 10 for place in range(11)])
    ours, theirs = knots[0].alpha * START, START
    for (here, there), time in zip(pairwise(knots), scheduler.timesteps, strict=True):
        scheduler.scale_model_input(theirs, time)  # it wants to be called
        step = scheduler.step(output, time, theirs, s_churn=3.0, s_tmin=low, s_tmax=8.0, s_noise=1.1)
        ours, theirs = sampler.step(ours, here, there, path), step.prev_sample
        torch.testing.assert_close(ours / there.alpha, theirs, atol=2e-3, rtol=1e-3)


def test_ddim_with_nothing_but_new_noise_agrees_with_diffusers_on_flows(same_noise):
    """The most that eta can ask for."""
    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=[1 - place / 10 for place in range(10)])
    ours = trajectory(DDIM(10, eta=1e6), RectifiedFlow(), Flow(), START)
    expected = theirs(scheduler, 10, START, lambda step: float(step) / 1000)
    for got, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


# grids


def test_leading_refuses_to_start_far_from_noise():
    for steps, start in ((400, "0.80"), (1, "0.00")):
        with pytest.raises(ValueError, match=f"{steps} steps would start at t = {start}"):
            Leading().times(steps, Linear())


def test_grids_begin_where_there_is_signal_or_nothing_but_noise():
    assert float(Cosine().exact(Uniform().times(25, Cosine()))[0][0]) == pytest.approx(0.02, rel=1e-3)
    for schedule in (Linear(), DDPMLinear(), EDM(), RectifiedFlow(), ZeroTerminal(Cosine())):
        assert float(Uniform().times(25, schedule)[0]) == 1


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_grids_fall_from_one_to_zero(grid, schedule):
    for steps in (2, 7, 50, 250) if isinstance(grid, Leading) else (1, 2, 7, 50, 250):
        times = grid.times(steps, schedule)
        assert times.shape == (steps + 1,)
        assert (times.diff() < 0).all()
        assert float(times[-1]) == 0
        assert 0 < float(times[0]) <= 1
        if not isinstance(grid, Leading):
            signal = schedule.exact(torch.stack([times[0], torch.ones_like(times[0])]))[0]
            assert float(signal.diff().abs()) < 0.021, "all but pure noise"
    levels = [knot.level for knot in _knots(schedule, *Karras().times(20, schedule).tolist())]
    assert levels[-1] == END.level == 0


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_grids_are_their_formulas(schedule):
    """Also where a schedule is gone along from a little before its end."""
    times = Karras(rho=5.0).times(30, schedule)[:-1]
    steps = (-0.5 * schedule.log_snr(times)).exp() ** (1 / 5)
    torch.testing.assert_close(steps.diff(), steps.diff()[:1].expand(29), rtol=1e-5, atol=0)
    even = schedule.log_snr(LogSNR().times(30, schedule)[:-1])
    torch.testing.assert_close(even.diff(), even.diff()[:1].expand(29), rtol=1e-5, atol=0)
    whole = Trailing().times(30, schedule) * 1000
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-9)
    if schedule is not SCHEDULES[2]:
        assert Quadratic().times(4, schedule).tolist() == [1.0, 0.5625, 0.25, 0.0625, 0.0]


@pytest.mark.parametrize("schedule", [Linear(), RectifiedFlow()], ids=name)
def test_where_steps_begin_before_pure_noise_x_t_has_the_size_that_it_has_there(schedule):
    """Of data of unit variance, exactly denoised: they stay that."""
    sampler = UniPC(200, grid=Karras(first=0.8))
    got = sampler.sample(Gaussian(schedule, 1.0), schedule, Noise(range(10)), (1, 60, 60))
    assert float(got.std()) == pytest.approx(1, abs=0.02)


def test_pure_noise_is_not_churned():
    churn = Churn(10.0, high=math.inf)
    for schedule in SCHEDULES:
        got = Heun(13, churn=churn).sample(Gaussian(schedule, 0.5), schedule, Noise([1]), (1, 4, 4))
        assert got.isfinite().all()


def test_discrete_grids_are_those_of_diffusers():
    for spacing, grid, options in (("trailing", Trailing(), {}), ("leading", Leading(), {"steps_offset": 1})):
        for steps in (7, 20, 30, 50, 999):
            scheduler = DDIMScheduler(**OPTIONS, timestep_spacing=spacing, **options)
            scheduler.set_timesteps(steps)
            ours = (grid.starts(steps, OURS) * 1000 - 1).round().long()
            assert ours.tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("wanted", [20, 30, 50, 60, 75, 250, 300])
def test_the_leading_grid_can_be_that_of_the_papers_code(wanted):
    """Which for 30, 60, 75 and 300 steps makes 31, 63, 77 and 334: every k-th time to the end, and one later."""
    theirs = [index + 1 for index in range(0, 1000, 1000 // wanted)]
    for grid in [Leading(stride=1000 // wanted)] + [Leading()] * (1000 % wanted == 0):
        ours = (grid.starts(len(theirs), OURS) * 1000 - 1).round().long()
        assert ours.flip(0).tolist() == [min(index, 999) for index in theirs]
    assert len(theirs) == {30: 31, 60: 63, 75: 77, 300: 334}.get(wanted, wanted)


@pytest.mark.parametrize(("grid", "option"), [(Karras(), "use_karras_sigmas"), (LogSNR(), "use_lu_lambdas")], ids=name)
def test_grids_of_noise_levels_are_those_of_diffusers(grid, option):
    for steps in (2, 7, 25):
        scheduler = DPMSolverMultistepScheduler(**OPTIONS, **{option: True}, final_sigmas_type="zero")
        scheduler.set_timesteps(steps)
        levels = (-0.5 * OURS.log_snr(grid.starts(steps, OURS))).exp()
        torch.testing.assert_close(levels.float(), scheduler.sigmas[:-1], rtol=1e-3, atol=0)


def test_a_grid_without_enough_times_says_so():
    with pytest.raises(ValueError, match="Trailing has no 1500 different times; use fewer sampler.steps"):
        DDIM(1500, grid=Trailing()).sample(Gaussian(OURS, 1), OURS, Noise([0]), (1, 2, 2))
    with pytest.raises(ValueError, match="0 < last < first <= 1"):
        Karras(first=0.1, last=0.2)
    with pytest.raises(
        ValueError, match="Leading has no 1500 different times 1 apart among 1000; use at most 1000 sampler"
    ):
        Leading().times(1500, OURS)
    with pytest.raises(
        ValueError, match="Leading has no 32 different times 33 apart among 1000; use at most 31 sampler"
    ):
        Leading(stride=33).times(32, OURS)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        (Leading, "offset", -1),
        (Leading, "stride", 0),
        (Karras, "rho", 0),
        (Karras, "last", 0.0),
        (LogSNR, "first", 1.5),
    ],
)
def test_options_of_grids_that_cannot_be_are_refused(kind, option, value):
    with pytest.raises(ValueError, match=f"grid.{option}={value} cannot be; give "):
        kind(**{option: value})


# image to image, inpainting, inversion


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_strength_says_how_much_of_the_image_stays_and_the_data_stay_the_data(kind, options):
    data, init = Gaussian(OURS, 1.0, mean=0.5), 0.5 + torch.randn(400, 1, 4, 4)
    correlation = []
    for strength in (0.0, 0.3, 0.7, 1.0):
        got = kind(50, **options).sample(data, OURS, Noise(range(400)), (1, 4, 4), way=Way(init, strength))
        correlation.append(float(torch.corrcoef(torch.stack([got.flatten(), init.flatten()]))[0, 1]))
        assert float(got.mean()) == pytest.approx(0.5, abs=0.1)
        assert float(got.var()) == pytest.approx(1.0, abs=0.2)
        if strength == 0:
            assert torch.equal(got, init)
    assert correlation[0] > correlation[1] + 0.1
    assert all(more > less - 0.05 for more, less in pairwise(correlation)), "samplers that draw forget it soon"
    assert correlation[1] > correlation[3] + 0.1
    assert correlation[3] < 0.15


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_ddim_is_inverted_exactly(schedule):
    """There and back is the identity: unlike with the usual approximation, also in few steps."""

    def denoise(x_t, t):
        estimate = Gaussian(schedule, 0.5, mean=0.3)(x_t, t).clean
        return Estimate(estimate + 0.05 * torch.sin(3 * estimate))

    latent = Gaussian(schedule, 0.5, mean=0.3).mean + 0.5**0.5 * torch.randn(8, 2, 4, 4)
    for steps, grid, strength in (
        (10, Uniform(), 1.0),
        (25, Uniform(), 1.0),
        (25, Karras(), 1.0),
        (20, Trailing(), 0.6),
    ):
        options = {"steps": steps, "grid": grid, "strength": strength}
        start = invert(denoise, schedule, latent, **options)
        way = Way(strength=strength, start=start)
        back = DDIM(steps, grid=grid).sample(denoise, schedule, Noise([0]), (2, 4, 4), way=way)
        assert float((back - latent).square().mean().sqrt()) < 1e-3
        forth = invert(denoise, schedule, back, **options)
        torch.testing.assert_close(forth, start, atol=1e-2, rtol=0)
        alone = invert(denoise, schedule, latent[3:4], **options)
        torch.testing.assert_close(alone, start[3:4], atol=1e-5, rtol=1e-5)


def test_an_inversion_that_does_not_converge_says_so():
    with pytest.raises(ValueError, match="one step from pure noise to the image cannot be inverted"):
        invert(Gaussian(RectifiedFlow(), 0.5), RectifiedFlow(), torch.randn(2, 1, 4, 4), steps=1)
    with pytest.raises(ValueError, match="cannot be inverted: 50 iterations do not converge; use more steps"):
        invert(lambda x, t: Estimate(10 * x.sin()), OURS, torch.randn(2, 1, 4, 4), steps=4)


# noise


def test_noise_belongs_to_the_seed_bitwise():
    alone, together = Noise([7]), Noise([3, 7, 9])
    for _ in range(3):
        assert torch.equal(alone.draw((4, 8, 8))[0], together.draw((4, 8, 8))[1])
    assert not torch.equal(Noise([1]).draw((4,)), Noise([2]).draw((4,)))


def test_noise_between_a_seed_and_itself_is_its_noise():
    shares = [0.0, 0.25, 0.5, 1.0]
    assert torch.equal(Noise([3] * 4).toward([3] * 4, shares).draw((4, 8, 8)), Noise([3] * 4).draw((4, 8, 8)))


def test_noise_between_two_seeds_is_noise_and_ends_at_both():
    shares = [0.0, 0.25, 0.5, 1.0]
    got = Noise([1] * 4).toward([2] * 4, shares).draw((4, 64, 64))
    first, second = Noise([1, 2]).draw((4, 64, 64))
    assert torch.equal(got[0], first)
    torch.testing.assert_close(got[3], second, atol=1e-6, rtol=0)
    assert all(float(part.std()) == pytest.approx(1, abs=0.02) for part in got)
    correlation = [float(torch.corrcoef(torch.stack([part.flatten(), first.flatten()]))[0, 1]) for part in got]
    assert correlation == pytest.approx([math.cos(share * math.pi / 2) for share in shares], abs=0.03)


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_an_image_depends_on_its_seed_alone(kind, options):
    data = Gaussian(OURS, 0.5, mean=0.3)
    together = kind(12, **options).sample(data, OURS, Noise([4, 9, 2]), (2, 4, 4))
    alone = kind(12, **options).sample(data, OURS, Noise([9]), (2, 4, 4))
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_samplers_refuse_nonsense():
    for make, message in (
        (lambda: DDIM(0), "sampler.steps=0 cannot be; give a whole number, at least 1"),
        (lambda: DDIM(5, eta=-1), "eta"),
        (lambda: EulerAncestral(5, eta=2), "eta"),
        (lambda: UniPC(5, order=4), "sampler.order=4 cannot be; give a whole number from 1 to 3"),
        (lambda: Churn(-1), "churn.amount=-1 cannot be"),
        (
            lambda: DDIM(5).sample(None, OURS, Noise([0]), (1, 2, 2), way=Way(strength=0.5)),
            "needs an image to begin with",
        ),
        (lambda: DDIM(5).sample(None, OURS, Noise([0]), (1, 2, 2), way=Way(START, 2)), "strength=2 cannot be"),
        (lambda: DDIM(5).sample(None, OURS, Noise([0]), (1, 2, 2), way=Way(visits=0)), "visits=0 cannot be"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
