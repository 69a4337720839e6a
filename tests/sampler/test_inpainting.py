import pytest
import torch

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.sampler.base import StartPoint
from ldm.sampler.inpainting import feather_mask, fill_masked, replace_known
from ldm.sampler.noise import SeededNoise
from tests.sampler.kinds import EVERY

SCHEDULE = ScaledLinearSchedule()


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
    for num_resample in (1, 8):
        held = replace_known(Same(), start, made)
        got = kind(20, **options).sample(
            held, SCHEDULE, SeededNoise(range(3)), (1, 4, 4), start_point=StartPoint(start, num_resample=num_resample)
        )
        torch.testing.assert_close(got[..., :2], start[..., :2], atol=1e-6, rtol=0)
        errors.append(float((got[..., 2:] - known[..., 2:]).abs().mean()))
    assert errors[1] < 0.35, "going back and forth, both halves come to agree"
    assert errors[1] < errors[0]


def test_soft_masks_fall_off_over_their_border_and_no_further():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 12:20, 12:20] = 1
    soft = feather_mask(mask, 4)
    assert (soft[mask > 0] == 1).all()
    torch.testing.assert_close(soft[0, 0, 15, 6:13], torch.tensor([0, 0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    outside = torch.ones(32, 32, dtype=torch.bool)
    outside[8:24, 8:24] = False
    assert (soft[0, 0][outside] == 0).all()
    assert torch.equal(feather_mask(mask, 0), mask)


@pytest.mark.parametrize("side", [8, 13])
def test_what_is_masked_does_not_show_through(side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, side, side)
    mask[0, :, 2:7, 3:] = 1
    mask[1] = 1
    painted = fill_masked(images, mask)
    assert torch.equal(fill_masked(torch.where(mask > 0, 100.0, images), mask), painted)
    assert torch.equal(painted * (1 - mask), images * (1 - mask)), "what is not masked stays"
    assert painted[0].abs().amax() <= images[0].abs().amax(), "of the colours around"
    assert torch.equal(painted[1], torch.zeros(3, side, side)), "nothing is known"
    flat = torch.full((1, 3, side, side), 0.3)
    torch.testing.assert_close(fill_masked(flat * (1 - mask[:1]), mask[:1]), flat)
