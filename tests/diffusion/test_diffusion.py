import pytest
import torch
from diffusers import DDPMScheduler

from ldm.batch import Condition
from ldm.config import build, compose
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.diffusion.prediction import Clean, Noise, Velocity
from ldm.diffusion.schedule import Linear
from ldm.diffusion.times import Stratified, Uniform
from ldm.diffusion.weighting import Constant, MinSNR

BETAS = [(0.0015, 0.0195), (0.00085, 0.012), (0.0015, 0.0155)]


@pytest.mark.parametrize(("start", "end"), BETAS)
def test_linear_schedule_agrees_with_diffusers_at_grid_points(start, end):
    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=start, beta_end=end).alphas_cumprod
    alpha, sigma = Linear(start=start, end=end).alpha_sigma(torch.arange(1, 1001) / 1000)
    torch.testing.assert_close(alpha**2, theirs, atol=1e-6, rtol=0)
    torch.testing.assert_close(sigma**2, 1 - theirs, atol=1e-6, rtol=0)


def test_schedule_laws():
    schedule = Linear()
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(len(t)))
    assert float(sigma[0]) == 0
    assert float(alpha[0]) == 1
    assert (schedule.variance(t).diff() > 0).all(), "between grid points, too, noise only grows"
    assert schedule.variance(t).diff().max() < 1e-3, "no jumps"
    log_snr = schedule.log_snr(t[1:])
    torch.testing.assert_close(log_snr, 2 * (alpha[1:] / sigma[1:]).log(), atol=1e-4, rtol=1e-4)


def test_schedule_refuses_betas_that_are_none():
    with pytest.raises(ValueError, match="0 < start <= end < 1"):
        Linear(start=0.1, end=0.01)


@pytest.mark.parametrize("prediction", [Noise(), Clean(), Velocity()])
def test_prediction_round_trip(prediction):
    x, z = torch.randn(2, 64, 4, 8, 8, dtype=torch.float64)
    alpha, sigma = (p.double()[:, None, None, None] for p in Linear().alpha_sigma(torch.rand(64) * 0.99 + 0.01))
    target = prediction.target(x, z, alpha, sigma)
    torch.testing.assert_close(prediction.clean(target, alpha * x + sigma * z, alpha, sigma), x)


@pytest.mark.parametrize(("ours", "theirs"), [(Noise(), "epsilon"), (Clean(), "sample"), (Velocity(), "v_prediction")])
def test_prediction_agrees_with_diffusers(ours, theirs):
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, prediction_type=theirs, clip_sample=False
    )
    x_t, output = torch.randn(2, 1, 4, 8, 8)
    alpha, sigma = Linear().alpha_sigma(torch.tensor(600 / 1000))
    expected = scheduler.step(output, 599, x_t).pred_original_sample
    torch.testing.assert_close(ours.clean(output, x_t, alpha, sigma), expected, atol=1e-4, rtol=1e-4)


def test_times_are_uniform_over_the_grid():
    for times in (Uniform(), Stratified()):
        drawn = torch.cat([times.sample(50, torch.device("cpu")) for _ in range(2000)])
        steps = drawn * 1000
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        assert drawn.min() > 0
        assert drawn.max() <= 1
        counts = torch.histc(drawn, bins=10, min=0, max=1) / len(drawn)
        torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.005, rtol=0)


def test_stratified_times_cover_each_part_once():
    for _ in range(20):
        drawn = Stratified().sample(8, torch.device("cpu"))
        assert sorted(((drawn - 5e-4) * 8).long().tolist()) == list(range(8))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_the_clean_latents_error_by_the_snr_up_to_gamma(gamma):
    t = torch.linspace(0.01, 1, 50)
    alpha, sigma = Linear().alpha_sigma(t)
    snr = (alpha / sigma) ** 2
    clean_per_noise = 1 / snr  # squared error of the clean latent for a unit error of the noise
    weight = MinSNR(gamma=gamma).weight(Linear().log_snr(t))
    torch.testing.assert_close(weight, snr.clamp(max=gamma) * clean_per_noise, atol=1e-5, rtol=1e-4)
    assert weight.max() == 1
    assert (weight.diff() >= 0).all()
    with pytest.raises(ValueError, match="gamma"):
        MinSNR(gamma=0)


class Perfect(torch.nn.Module):
    """The exact noise prediction for data from N(0, variance)."""

    def __init__(self, schedule, variance):
        super().__init__()
        self.schedule, self.data_variance = schedule, variance

    def forward(self, x_t, t, condition):
        alpha, sigma = (p[:, None, None, None] for p in self.schedule.alpha_sigma(t))
        return sigma * x_t / (alpha**2 * self.data_variance + sigma**2)


def test_loss_of_the_exact_denoiser_is_the_known_remainder():
    schedule, variance = Linear(), 2.5
    denoiser = Denoiser(Perfect(schedule, variance), schedule, Noise())
    x = torch.randn(4000, 1, 4, 4) * variance**0.5
    loss = DenoisingLoss(Stratified(), Constant())(denoiser, x, Condition())
    alpha, sigma = schedule.alpha_sigma(torch.arange(1, 1001) / 1000)
    expected = (alpha**2 * variance / (alpha**2 * variance + sigma**2)).mean()
    assert loss.shape == (4000,)
    assert float(loss.mean()) == pytest.approx(float(expected), rel=0.02)


@pytest.mark.parametrize("group", ["schedule", "prediction", "weighting", "times", "sampler", "guidance", "optimizer"])
def test_every_choice_of_a_group_builds(group):
    from ldm.config import CONFIGS

    for file in (CONFIGS / group).glob("*.yaml"):
        target = "optimizer@task.diffusion.optimizer" if group == "optimizer" else group
        config = compose("train", ["experiment=txt2img", f"{target}={file.stem}"])
        assert build(config.task.diffusion.optimizer if group == "optimizer" else config[group]) is not None
