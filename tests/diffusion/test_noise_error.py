import pytest
import torch

from ldm.batch import Condition
from ldm.diffusion.criterion import L2
from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.loss import DenoisingLoss
from ldm.diffusion.noise_error import LEVELS, noise_error
from ldm.diffusion.prediction import NoisePrediction
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.diffusion.weighting import ConstantWeighting
from tests.diffusion.networks import Exact, Fixed, Says
from tests.parts import MORE_SCHEDULES, PREDICTIONS, name


def allowed(schedule):
    return [one for one in PREDICTIONS if one.tells_from_noise or not schedule.zero_terminal_snr]


@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
def test_the_same_noise_has_the_same_error_whatever_is_predicted(schedule):
    """By one network, wrapped as each prediction; and it is the squared error of that noise."""
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 2, 1))
    x, z = torch.randn(2, 70, 2, 6, 6)
    t = torch.tensor(LEVELS * 10)
    alpha, sigma = (part[:, None, None, None] for part in schedule.alpha_sigma(t))
    with torch.no_grad():
        expected = (network(alpha * x + sigma * z) - z).square().mean((1, 2, 3))
        for prediction in allowed(schedule):
            denoiser = Denoiser(Says(network, schedule, prediction), schedule, prediction)
            found = noise_error(denoiser, x, z, t, condition=Condition())
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
def test_the_exact_denoiser_has_the_known_remainder_at_every_level(schedule):
    variance, count = 2.5, 400
    x, z = torch.randn(2, count, 1, 6, 6)
    for level in LEVELS:
        t = torch.full((count,), level)
        alpha, sigma = schedule.exact(t[:1])
        assert min(float(alpha), float(sigma)) > 1e-3, "defined at every level"
        remainder = float(alpha**2 * variance / (alpha**2 * variance + sigma**2))
        for prediction in allowed(schedule):
            denoiser = Denoiser(Exact(schedule, prediction, variance), schedule, prediction, learned_variance=True)
            found = noise_error(denoiser, variance**0.5 * x, z, t, condition=Condition()).detach()
            assert float(found.mean()) == pytest.approx(remainder, rel=0.05)


def test_it_is_the_simple_loss_of_a_noise_prediction():
    schedule, x, t = ScaledLinearSchedule(), torch.randn(7, 2, 4, 4), torch.tensor(LEVELS)
    denoiser = Denoiser(Says(torch.sin, schedule, NoisePrediction()), schedule, NoisePrediction())
    torch.manual_seed(3)
    loss = DenoisingLoss(Fixed(t), ConstantWeighting(), L2())(denoiser, x, Condition())
    torch.manual_seed(3)
    found = noise_error(denoiser, x, torch.randn_like(x), t, condition=Condition())
    torch.testing.assert_close(found, loss)
