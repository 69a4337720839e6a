import pytest
import torch

from ldm.guidance.base import NoGuidance
from ldm.guidance.loss import LossGuidance
from ldm.guidance.low_resolution import LowResolutionScore
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from tests.deterministic import Deterministic
from tests.guidance.models import SCHEDULE, denoiser, given


def test_an_image_like_a_small_one_is_found():
    """What is wanted is known at a quarter of the side; the rest is free."""
    wanted = torch.rand(3, 2, 2) * 2 - 1
    score = LowResolutionScore(wanted, std=0.1)
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert float(LowResolutionScore(torch.full((3, 2, 2), 0.3)).log_likelihood(flat, [""])) == pytest.approx(0)
    far = LowResolutionScore(torch.full((3, 2, 2), 0.1), std=0.5).log_likelihood(flat, [""])
    assert float(far) == pytest.approx(-0.5 * 12 * (0.2 / 0.5) ** 2, rel=1e-4)
    network = denoiser(variance=0.3)
    guided = LossGuidance(score).wrap(given(network, 0.0, count=4))
    got = Heun(40).sample(guided, SCHEDULE, SeededNoise(range(4)), (3, 8, 8))
    small = torch.nn.functional.interpolate(got, (2, 2), mode="area")
    free = Heun(40).sample(NoGuidance().wrap(given(network, 0.0, count=4)), SCHEDULE, SeededNoise(range(4)), (3, 8, 8))
    assert float((small - wanted).abs().mean()) < 0.3 * float((_shrunk(free) - wanted).abs().mean())
    assert not torch.allclose(got[0], got[1], atol=0.1), "many images are like one small one"


def _shrunk(images):
    return torch.nn.functional.interpolate(images, (2, 2), mode="area")


class Brightness(torch.nn.Module):
    """A distance that sees nothing but the mean."""

    def forward(self, a, b):
        return (a.mean((1, 2, 3)) - b.mean((1, 2, 3))).abs()


def test_likeness_by_another_distance():
    score = LowResolutionScore(torch.full((3, 2, 2), 0.5), std=0.1, distance=Brightness())
    image = torch.stack([torch.full((3, 8, 8), value) for value in (0.5, 0.7)])
    torch.testing.assert_close(score.log_likelihood(image, ["", ""]), torch.tensor([0.0, -0.2 / 0.01 / 2]))
    with pytest.raises(ValueError, match="std=0 cannot be"):
        LowResolutionScore(torch.zeros(3, 2, 2), std=0)


def test_its_gradient_is_deterministic_on_gpus():
    image = torch.rand(2, 3, 10, 14, requires_grad=True)
    score = LowResolutionScore(torch.zeros(3, 4, 6))
    with Deterministic():
        (pull,) = torch.autograd.grad(score.log_likelihood(image, ["", ""]).sum(), image)
    small = torch.nn.functional.interpolate(image, (4, 6), mode="bilinear", antialias=True)
    (expected,) = torch.autograd.grad(-0.5 * small.square().sum(), image)
    torch.testing.assert_close(pull, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("t", [0.999, 0.9, 0.5, 0.1])
def test_an_estimate_is_not_moved_further_beyond_the_small_image_than_it_was_from_it(t):
    """As far as nothing else is said; at the noisiest times the step is largest, and larger ones drive images apart."""
    network = denoiser(variance=1.0)
    x_t = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    far = []
    for guidance in (NoGuidance(), LossGuidance(LowResolutionScore(torch.full((3, 4, 4), 0.5)))):
        estimate = guidance.wrap(given(network, 0.0, count=4))(x_t, torch.full((4,), t))
        far.append(
            (torch.nn.functional.interpolate(estimate.clean, (4, 4), mode="bilinear", antialias=True) - 0.5).norm()
        )
    assert far[1] < far[0]
