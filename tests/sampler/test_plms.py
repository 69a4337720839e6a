import pytest
import torch
from diffusers import PNDMScheduler

from ldm.diffusion.prediction import CleanPrediction, FlowPrediction, VelocityPrediction
from ldm.diffusion.prediction import NoisePrediction as NoisePrediction
from ldm.sampler.plms import PLMS
from ldm.sampler.timestep_spacing import LeadingSpacing
from tests.parts import name
from tests.sampler.toolbox import OPTIONS, OURS, START, Network, discrete, theirs, trajectory


@pytest.mark.parametrize(
    "prediction", [NoisePrediction(), VelocityPrediction(), CleanPrediction(), FlowPrediction()], ids=name
)
def test_plms_agrees_with_diffusers(prediction):
    """Ours mixes the noise whatever is predicted; theirs is given the noise that a prediction means. Ours ends as DDIM."""
    options = {"skip_prk_steps": True, "set_alpha_to_one": True, "steps_offset": 1, "timestep_spacing": "leading"}
    scheduler = PNDMScheduler(**OPTIONS, **options)
    scheduler.set_timesteps(20)

    def noise(x, t):
        alpha, sigma = (float(part) for part in OURS.exact(torch.tensor(t)))
        return (x - alpha * prediction.clean(network(x, t), x, torch.tensor(alpha), torch.tensor(sigma))) / sigma

    network = Network()
    ours = trajectory(PLMS(20, timestep_spacing=LeadingSpacing()), OURS, prediction, START)
    _, *expected = theirs(scheduler, 20, START, discrete, network=noise)  # the first step is made twice
    for got, wanted in list(zip(ours, expected, strict=True))[:-1]:
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)
