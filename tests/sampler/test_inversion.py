import pytest
import torch

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import RectifiedFlowSchedule
from ldm.sampler.base import StartPoint
from ldm.sampler.ddim import DDIM
from ldm.sampler.inversion import invert
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import KarrasSpacing, TrailingSpacing, UniformSpacing
from tests.sampler.cases import SCHEDULES, name
from tests.sampler.gaussian import Gaussian
from tests.sampler.toolbox import OURS


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_ddim_is_inverted_exactly(schedule):
    """There and back is the identity: unlike with the usual approximation, also in few steps."""

    def denoise(x_t, t):
        estimate = Gaussian(schedule, 0.5, mean=0.3)(x_t, t).clean
        return Estimate(estimate + 0.05 * torch.sin(3 * estimate))

    latent = Gaussian(schedule, 0.5, mean=0.3).mean + 0.5**0.5 * torch.randn(8, 2, 4, 4)
    for steps, grid, strength in (
        (10, UniformSpacing(), 1.0),
        (25, UniformSpacing(), 1.0),
        (25, KarrasSpacing(), 1.0),
        (20, TrailingSpacing(), 0.6),
    ):
        options = {"steps": steps, "timestep_spacing": grid, "strength": strength}
        start = invert(denoise, schedule, latent, **options)
        start_point = StartPoint(strength=strength, start=start)
        back = DDIM(steps, timestep_spacing=grid).sample(
            denoise, schedule, SeededNoise([0]), (2, 4, 4), start_point=start_point
        )
        assert float((back - latent).square().mean().sqrt()) < 1e-3
        forth = invert(denoise, schedule, back, **options)
        torch.testing.assert_close(forth, start, atol=1e-2, rtol=0)
        alone = invert(denoise, schedule, latent[3:4], **options)
        torch.testing.assert_close(alone, start[3:4], atol=1e-5, rtol=1e-5)


def test_an_inversion_that_does_not_converge_says_so():
    with pytest.raises(ValueError, match="one step from pure noise to the image cannot be inverted"):
        invert(Gaussian(RectifiedFlowSchedule(), 0.5), RectifiedFlowSchedule(), torch.randn(2, 1, 4, 4), steps=1)
    with pytest.raises(ValueError, match="cannot be inverted: 50 iterations do not converge; use more steps"):
        invert(lambda x, t: Estimate(10 * x.sin()), OURS, torch.randn(2, 1, 4, 4), steps=4)
