import pytest
import torch

from ldm.diffusion.criterion import L1, L2, Huber


def test_distances():
    output, target = torch.randn(2, 1000)
    error = (output - target).abs()
    torch.testing.assert_close(L2().between(output, target), error**2)
    torch.testing.assert_close(L1().between(output, target), error)
    huber = Huber(delta=0.5).between(output, target)
    torch.testing.assert_close(huber, torch.where(error < 0.5, error**2, error - 0.25))
    torch.testing.assert_close(Huber(delta=1e3).between(output, target), error**2)
    with pytest.raises(ValueError, match="delta"):
        Huber(delta=0)
