import pytest
import torch

from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.sampler.ddim import DDIM
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from ldm.sampler.unipc import UniPC
from tests.guidance.models import SCHEDULE, T, Weak, X, denoiser, flow_to, given


@pytest.mark.parametrize("sampler", [DDIM(800), Heun(300), UniPC(200)], ids=lambda part: type(part).__name__)
def test_autoguided_trajectories_of_gaussians_end_where_the_closed_form_says(sampler):
    """Of a model of N(1, v) and a weak one of N(0.4, v): N(0.4 + scale 0.6, v)."""
    here = given(denoiser(), 1.0, count=6)
    guided = Autoguidance(Weak(denoiser(), 0.4), scale=2.5).wrap(here)
    got = sampler.sample(guided, SCHEDULE, SeededNoise(range(6)), (1, 4, 4))
    torch.testing.assert_close(got, flow_to(0.4 + 2.5 * 0.6, SCHEDULE, 6), atol=0.02, rtol=0)


def test_autoguidance_leads_away_from_the_worse_model():
    good, bad = denoiser(variance=0.5), denoiser(variance=0.9)
    here = given(good, 2.0)
    better = NoGuidance().wrap(here)(X, T).clean
    worse = NoGuidance().wrap(given(bad, 2.0))(X, T).clean
    got = Autoguidance(Weak(bad, 2.0), scale=3.0).wrap(here)(X, T).clean
    torch.testing.assert_close(got, worse + 3 * (better - worse))
    torch.testing.assert_close(Autoguidance(Weak(bad, 2.0), scale=1.0).wrap(here)(X, T).clean, better)
    torch.testing.assert_close(Autoguidance(Weak(good, 2.0), scale=9.0).wrap(here)(X, T).clean, better)
    both = Autoguidance(Weak(bad, 2.0), scale=3.0, guidance=ClassifierFreeGuidance(2.0)).wrap(here)(X, T).clean
    torch.testing.assert_close(both, worse + 3 * (ClassifierFreeGuidance(2.0).wrap(here)(X, T).clean - worse))


def test_autoguidance_refuses_a_model_of_other_latents_or_other_noise():
    weak = Weak(denoiser(), 2.0)
    weak.autoencoder.same_latents = lambda other: False
    with pytest.raises(ValueError, match="the weak model belongs to another autoencoder"):
        Autoguidance(weak).wrap(given(denoiser(), 2.0))
    other = Weak(denoiser(ScaledLinearSchedule(start=0.001)), 2.0)
    with pytest.raises(ValueError, match="another amount of noise; give one with the schedule of the model"):
        Autoguidance(other).wrap(given(denoiser(), 2.0))
