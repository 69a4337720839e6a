import pytest
import torch
from diffusers import DDPMScheduler

from ldm.diffusion.prediction import CleanPrediction, NoisePrediction, VelocityPrediction
from ldm.diffusion.schedule import EDMSchedule, ScaledLinearSchedule
from tests.diffusion.networks import map_of
from tests.parts import MORE_SCHEDULES, PREDICTIONS, name


@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=name)
def test_prediction_round_trip(prediction, schedule):
    x, z = torch.randn(2, 64, 4, 8, 8, dtype=torch.float64)
    t = torch.rand(64) * 0.98 + 0.01
    if prediction.tells_from_noise:
        t[0] = 1.0
    alpha, sigma = (map_of(part) for part in schedule.exact(t))
    target = prediction.target(x, z, alpha, sigma)
    torch.testing.assert_close(prediction.clean(target, alpha * x + sigma * z, alpha, sigma), x)
    wrong = prediction.clean(target + 1e-3, alpha * x + sigma * z, alpha, sigma) - x
    ratio = 1e-6 / wrong.square().flatten(1).mean(1)
    torch.testing.assert_close(ratio, prediction.gain(alpha, sigma).flatten())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(NoisePrediction(), "epsilon"), (CleanPrediction(), "sample"), (VelocityPrediction(), "v_prediction")],
)
def test_prediction_agrees_with_diffusers(ours, theirs):
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195, prediction_type=theirs, clip_sample=False
    )
    x_t, output = torch.randn(2, 1, 4, 8, 8)
    alpha, sigma = ScaledLinearSchedule().alpha_sigma(torch.tensor(600 / 1000))
    expected = scheduler.step(output, 599, x_t).pred_original_sample
    torch.testing.assert_close(ours.clean(output, x_t, alpha, sigma), expected, atol=1e-4, rtol=1e-4)


def test_velocity_is_the_direction_of_edms_output():
    """With data of unit variance, EDM's network predicts minus the velocity, and its input scaling is ours."""
    x, z = torch.randn(2, 32, 4, 8, 8, dtype=torch.float64)
    alpha, sigma = (map_of(part) for part in EDMSchedule().exact(torch.rand(32)))
    level = sigma / alpha
    c_in, c_out, c_skip = (level**2 + 1) ** -0.5, level * (level**2 + 1) ** -0.5, 1 / (level**2 + 1)
    noised = x + level * z
    torch.testing.assert_close(c_in * noised, alpha * x + sigma * z)
    torch.testing.assert_close((x - c_skip * noised) / c_out, -VelocityPrediction().target(x, z, alpha, sigma))
