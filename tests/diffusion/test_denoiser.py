import pytest
import torch

from ldm.diffusion.denoiser import Denoiser
from ldm.diffusion.prediction import NoisePrediction
from ldm.diffusion.schedule import RectifiedFlowSchedule, ScaledLinearSchedule, ShiftedSchedule, ZeroTerminalSchedule


@pytest.mark.parametrize(
    "schedule",
    [
        RectifiedFlowSchedule(),
        ZeroTerminalSchedule(ScaledLinearSchedule()),
        ShiftedSchedule(RectifiedFlowSchedule(), shift=2),
    ],
)
def test_noise_is_not_predicted_where_nothing_else_is_left(schedule):
    with pytest.raises(ValueError, match="use prediction=velocity, flow or clean"):
        Denoiser(torch.nn.Identity(), schedule, NoisePrediction())
