import pytest
import torch

from ldm.batch import Condition
from ldm.diffusion.criterion import L2
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.diffusion.posterior import posterior
from ldm.diffusion.prediction import CleanPrediction, NoisePrediction, VelocityPrediction
from ldm.diffusion.schedule import CosineSchedule, ScaledLinearSchedule, SigmoidSchedule
from ldm.diffusion.timestep_sampler import UniformTimesteps
from ldm.diffusion.weighting import ConstantWeighting, MinSNRWeighting
from tests.diffusion.networks import Exact, Fixed, Uncertain, map_of
from tests.parts import MORE_SCHEDULES, name


def test_learned_variance_finds_the_true_one():
    """Of N(0, 1) data, x_s given x_t has the variance of the upper bound, so the fraction becomes 1."""
    schedule = ScaledLinearSchedule()
    network = Uncertain(schedule)
    denoiser = Denoiser(network, schedule, NoisePrediction(), learned_variance=True)
    loss = DenoisingLoss(UniformTimesteps(), ConstantWeighting(), L2(), variational_weight=1.0)
    optimizer = torch.optim.Adam([network.fraction], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(denoiser, torch.randn(256, 1, 8, 8), Condition()).mean().backward()
        optimizer.step()
    late = network.fraction.detach()[100:]
    assert float(late.median()) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("schedule", [ScaledLinearSchedule(), CosineSchedule(), SigmoidSchedule()], ids=name)
def test_the_variational_bound_is_the_divergence_of_two_gaussians(schedule):
    """In nats a number, times the number of steps, as torch's own distributions have it; of the first step nothing."""
    network, x = Seen(), torch.randn(64, 2, 4, 4)
    denoiser = Denoiser(network, schedule, VelocityPrediction(), learned_variance=True)
    losses = []
    for weight in (0.0, 0.01):
        torch.manual_seed(3)
        times = Fixed(torch.linspace(0.001, 1, 64))
        losses.append(
            DenoisingLoss(times, ConstantWeighting(), L2(), variational_weight=weight)(denoiser, x, Condition())
        )
    got = (losses[1] - losses[0]).double() / 0.01
    t = torch.linspace(0.001, 1, 64)
    at_t = [map_of(part) for part in schedule.exact(t)]
    at_s = [map_of(part) for part in schedule.exact((t - 0.001).clamp(min=0.0005))]
    step = posterior(*at_t, *at_s)
    x_t, output, fraction = (part.double() for part in (network.x_t, network.output, network.fraction))
    variance = (fraction * step.upper.log() + (1 - fraction) * step.lower.log()).exp()
    truth, model = (
        torch.distributions.Normal(step.of_noisy * x_t + step.of_clean * clean, std)
        for clean, std in (
            (x.double(), step.lower.sqrt().expand_as(x)),
            (VelocityPrediction().clean(output, x_t, *at_t), variance.sqrt()),
        )
    )
    expected = 1000 * torch.distributions.kl_divergence(truth, model).flatten(1).mean(1)
    torch.testing.assert_close(got[1:], expected[1:], rtol=0.01, atol=0.05)
    assert float(got[0]) == 0


@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
def test_gradients_of_a_learned_variance_are_finite_at_the_earliest_times(schedule):
    network = Exact(schedule, CleanPrediction(), 1.0)
    denoiser = Denoiser(network, schedule, CleanPrediction(), learned_variance=True)
    early = Fixed(torch.tensor([1e-5, 0.0005, 0.001, 0.0015, 0.002]))
    loss = DenoisingLoss(early, MinSNRWeighting(), L2())(denoiser, torch.randn(5, 1, 4, 4), Condition()).mean()
    gradients = torch.autograd.grad(loss, [network.weight, network.fraction])
    assert all(part.isfinite() for part in (loss, *gradients))


class Seen(torch.nn.Module):
    """A guess, and what it saw and said."""

    def forward(self, x_t, t, condition):
        self.x_t, self.output, self.fraction = x_t, 0.5 * x_t.cos(), torch.sigmoid(x_t.roll(1, 0))
        return torch.cat([self.output, 2 * self.fraction - 1], dim=1)


def test_the_variational_bound_trains_the_variance_alone():
    schedule = ScaledLinearSchedule()
    network = Uncertain(schedule)
    denoiser = Denoiser(network, schedule, NoisePrediction(), learned_variance=True)
    x = torch.randn(64, 1, 8, 8)
    gradients = []
    for weight in (0.0, 10.0):
        torch.manual_seed(3)
        loss = DenoisingLoss(UniformTimesteps(), ConstantWeighting(), L2(), variational_weight=weight)
        gradients.append(torch.autograd.grad(loss(denoiser, x, Condition()).mean(), [network.bias, network.fraction]))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert float(gradients[0][1].abs().max()) == 0
    assert float(gradients[1][1].abs().max()) > 0
