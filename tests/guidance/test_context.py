import pytest
import torch

from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.classifier import ClassifierGuidance
from ldm.guidance.context import Interpolation
from ldm.guidance.loss import LossGuidance
from tests.guidance.models import Spelled, SpelledScore, T, X, denoiser, given, spelling_weak


@pytest.mark.parametrize(
    "guidance", [Autoguidance(spelling_weak()), ClassifierGuidance(Spelled()), LossGuidance(SpelledScore())]
)
def test_on_the_way_to_other_prompts_guidance_goes_along(guidance):
    network = denoiser()

    def clean(prompts, interpolation=None):
        here = given(network, 1.0)._replace(prompts=prompts, interpolation=interpolation)
        return guidance.wrap(here)(X, T).clean

    first, last = clean(["1", "1"]), clean(["2", "2"])
    torch.testing.assert_close(
        clean(["1", "1"], Interpolation(["2", "2"], [0, 0], [0.0, 1.0])), torch.stack([first[0], last[1]])
    )
    assert not torch.allclose(first, last)
