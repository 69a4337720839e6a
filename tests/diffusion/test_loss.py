import pytest
import torch

from ldm.batch import Condition
from ldm.diffusion import weighting as weightings
from ldm.diffusion.criterion import L1, L2, Huber
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.diffusion.prediction import NoisePrediction
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.diffusion.timestep_sampler import UniformTimesteps
from ldm.diffusion.weighting import ConstantWeighting, MinSNRWeighting, P2Weighting, SNRWeighting, SoftMinSNRWeighting
from tests.cases import mostly_slow
from tests.diffusion.networks import Exact, map_of
from tests.parts import MORE_SCHEDULES, PREDICTIONS, TIMESTEP_SAMPLERS, name

WEIGHTINGS = [
    ConstantWeighting(),
    SNRWeighting(),
    MinSNRWeighting(gamma=3),
    SoftMinSNRWeighting(),
    P2Weighting(),
    weightings.EDMWeighting(),
]

COMMON = ("ScaledLinearSchedule", "RectifiedFlowSchedule", "EDMSchedule")
"""Schedules with which the loss is tested among the fast tests."""


@pytest.mark.parametrize("times", TIMESTEP_SAMPLERS, ids=name)
@pytest.mark.parametrize("schedule", mostly_slow(MORE_SCHEDULES, lambda schedule: name(schedule) in COMMON), ids=name)
def test_loss_of_the_exact_denoiser_is_the_known_remainder(schedule, times):
    """By every prediction, schedule, weighting and distribution of times; and its gradients are finite."""
    variance, count = 2.5, 1000
    x = torch.randn(count, 1, 6, 6) * variance**0.5
    t = times.quantile((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000, schedule)
    alpha, sigma = schedule.exact(t.clamp(min=1e-5))
    remainder = variance * sigma**2 / (alpha**2 * variance + sigma**2)
    for prediction in PREDICTIONS:
        if schedule.zero_terminal_snr and not prediction.tells_from_noise:
            continue
        network = Exact(schedule, prediction, variance)
        denoiser = Denoiser(network, schedule, prediction, learned_variance=True)
        gain = prediction.gain(alpha, sigma)
        for weighting in WEIGHTINGS:
            loss = DenoisingLoss(times, weighting, L2(), variational_weight=0.0)(denoiser, x, Condition()).detach()
            expected = (weighting.weight((alpha / sigma) ** 2, gain) * gain * remainder).mean()
            assert loss.shape == (count,)
            assert float(loss.mean()) == pytest.approx(float(expected), rel=0.04), (name(prediction), name(weighting))
        hybrid = DenoisingLoss(times, ConstantWeighting(), L2())(denoiser, x, Condition()).mean()
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


@pytest.mark.parametrize("distance", [L2(), L1(), Huber(delta=0.1)], ids=name)
@pytest.mark.parametrize(
    "weighting",
    [SNRWeighting(), MinSNRWeighting(gamma=3), SoftMinSNRWeighting(), P2Weighting(), weightings.EDMWeighting()],
    ids=name,
)
def test_by_any_distance_the_same_estimate_has_the_same_loss(distance, weighting):
    schedule, x = ScaledLinearSchedule(), torch.randn(64, 2, 4, 4)
    loss, losses = DenoisingLoss(UniformTimesteps(), weighting, distance), []
    for prediction in PREDICTIONS:
        torch.manual_seed(1)
        losses.append(loss(Denoiser(Shrinks(schedule, prediction), schedule, prediction), x, Condition()))
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-3, atol=1e-4)
    assert losses[0].min() > 0


def test_a_weight_is_one_of_squared_errors():
    """A distance that grows as the error itself is weighted by the root."""
    schedule, x = ScaledLinearSchedule(), torch.randn(64, 2, 4, 4)
    losses = {}
    for distance in (L2(), L1()):
        for weighting in (ConstantWeighting(), MinSNRWeighting(gamma=3)):
            torch.manual_seed(1)
            loss = DenoisingLoss(UniformTimesteps(), weighting, distance)
            losses[name(distance), name(weighting)] = loss(
                Denoiser(Recorder(), schedule, NoisePrediction()), x, Condition()
            )
    squared = losses["L2", "MinSNRWeighting"] / losses["L2", "ConstantWeighting"]
    torch.testing.assert_close(losses["L1", "MinSNRWeighting"] / losses["L1", "ConstantWeighting"], squared.sqrt())


class Recorder(torch.nn.Module):
    """Predicts nothing and remembers what it saw."""

    def forward(self, x_t, t, condition):
        self.x_t, self.t = x_t, t
        return torch.zeros_like(x_t)


def test_noise_offset_is_one_number_a_channel():
    schedule, recorder = ScaledLinearSchedule(), Recorder()
    loss = DenoisingLoss(UniformTimesteps(), ConstantWeighting(), L2(), noise_offset=0.5)
    loss(Denoiser(recorder, schedule, NoisePrediction()), torch.zeros(500, 3, 16, 16), Condition())
    _, sigma = schedule.alpha_sigma(recorder.t)
    z = recorder.x_t / map_of(sigma)
    assert float(z.mean((2, 3)).std()) == pytest.approx((0.5**2 + 1 / 256) ** 0.5, rel=0.05)
    assert float((z - z.mean((2, 3), keepdim=True)).std()) == pytest.approx(1, rel=0.01)


WEIGHT = torch.zeros(4, 1, 32, 32)
"""How much each pixel counts: nothing, a corner, half an element of an 8 x 8 latent, everything."""
WEIGHT[1, :, :8, 12:32] = 1.0
WEIGHT[2, :, 8:10, 8:12] = 1.0
WEIGHT[3] = 1.0


def learned(criterion):
    """A denoiser that learns its variance, and the loss of it."""
    schedule = ScaledLinearSchedule()
    denoiser = Denoiser(Echo(), schedule, NoisePrediction(), learned_variance=True)
    return denoiser, DenoisingLoss(UniformTimesteps(), P2Weighting(), criterion, variational_weight=0.1)


class Echo(torch.nn.Module):
    """Puts out a parameter, whose gradient is then known."""

    def __init__(self):
        super().__init__()
        self.output = torch.nn.Parameter(0.1 * torch.randn(4, 4, 8, 8))

    def forward(self, x_t, t, condition):
        return self.output


@pytest.mark.parametrize("criterion", [L2(), L1(), Huber(delta=0.1)], ids=name)
def test_pixels_of_weight_zero_are_not_trained(criterion):
    denoiser, loss = learned(criterion)
    values = loss(denoiser, torch.randn(4, 2, 8, 8), Condition(), pixel_weight=WEIGHT)
    (gradient,) = torch.autograd.grad(values.sum(), denoiser.backbone.output)
    assert values[0] == 0
    assert (values[1:] > 0).all()
    assert gradient.isfinite().all()
    trained = (gradient != 0).any(1)
    assert not trained[0].any()
    assert trained[1].nonzero().tolist() == [[row, column] for row in (0, 1) for column in range(3, 8)]
    assert trained[2].nonzero().tolist() == [[2, 2]]
    assert trained[3].all()
    assert (gradient[1, :, 0, 3] != 0).all(), "of prediction and variance"


@pytest.mark.parametrize("criterion", [L2(), L1()], ids=name)
def test_weights_of_one_change_nothing_and_other_weights_give_a_weighted_mean(criterion):
    denoiser, loss = learned(criterion)
    x = torch.randn(4, 2, 8, 8)

    def seeded(weight):
        torch.manual_seed(3)
        return loss(denoiser, x, Condition(), pixel_weight=weight)

    plain = seeded(None)
    assert torch.equal(seeded(torch.ones(4, 1, 32, 32)), plain)
    torch.testing.assert_close(seeded(torch.full((4, 1, 8, 8), 0.25)), plain)  # the same for all: nothing changes
    one = torch.zeros(4, 1, 8, 8)
    one[..., 3, 5] = 1.0
    two = torch.zeros(4, 1, 8, 8)
    two[..., 6, 0] = 1.0
    torch.testing.assert_close(seeded(0.25 * one + 0.75 * two), 0.25 * seeded(one) + 0.75 * seeded(two))
    elements = [
        torch.nn.functional.one_hot(torch.tensor(i), 64).float().view(1, 1, 8, 8).expand(4, -1, -1, -1)
        for i in range(64)
    ]
    torch.testing.assert_close(torch.stack([seeded(element) for element in elements]).mean(0), plain)
