import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.prediction import Noise
from ldm.diffusion.schedule import Linear, RectifiedFlow, Shifted, ZeroTerminal


@pytest.mark.parametrize("schedule", [RectifiedFlow(), ZeroTerminal(Linear()), Shifted(RectifiedFlow(), shift=2)])
def test_noise_is_not_predicted_where_nothing_else_is_left(schedule):
    with pytest.raises(ValueError, match="use prediction=velocity, flow or clean"):
        Denoiser(torch.nn.Identity(), schedule, Noise())
