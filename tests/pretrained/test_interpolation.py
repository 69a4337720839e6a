import pytest
import torch
import torch.nn.functional as F

from ldm.pretrained.interpolation import interpolate, interpolate_by_matrices
from tests.deterministic import Deterministic

SIZES = [(8, 12), (5, 7), (40, 50), (16, 24), (1, 1)]


def torchs(maps, size, mode):
    if mode == "area":
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode=mode, antialias=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "area"])
def test_values_and_gradients_are_torchs_and_deterministic(mode, size):
    maps, weight = torch.randn(2, 3, 16, 24), torch.randn(2, 3, *size)

    def values_and_gradient(resize):
        given = maps.clone().requires_grad_()
        found = resize(given, size, mode)
        assert found.dtype == torch.float32
        (gradient,) = torch.autograd.grad((weight * found).sum(), given)
        return found.detach(), gradient

    with Deterministic():
        found = values_and_gradient(interpolate)
    torch.testing.assert_close(found, values_and_gradient(torchs), atol=1e-5, rtol=0)
    assert torch.equal(interpolate(maps, size, mode), torchs(maps, size, mode)), "the same bits where no gradient flows"
    assert torch.equal(interpolate_by_matrices(maps, size, mode), found[0])


def test_autocast_rounds_nothing():
    maps = torch.randn(1, 1, 16, 16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = interpolate(maps, (5, 5), "bicubic")
    torch.testing.assert_close(found, torchs(maps, (5, 5), "bicubic"), atol=1e-5, rtol=0)
