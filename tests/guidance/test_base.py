import math

import pytest
import torch

from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier import ClassifierGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.guidance.loss import LossGuidance
from tests.guidance.models import Near, Spelled, T, Weak, X, denoiser, given


def test_a_change_of_zero_is_no_guidance():
    """What is wanted is what is not: whatever the scale, the estimate is the conditional one."""
    network = denoiser()
    same = given(network, 3.0, 3.0)
    for guidance in (
        ClassifierFreeGuidance(7.0),
        ClassifierFreeGuidance(7.0, rescale=0.7),
        ClassifierFreeGuidance(7.0, interval=(0.2, 0.5)),
    ):
        torch.testing.assert_close(guidance.wrap(same)(X, T).clean, NoGuidance().wrap(same)(X, T).clean)
    for guidance in (
        LossGuidance(Near(2.0, 1.5), scale=0.0),
        ClassifierGuidance(Spelled(), scale=0.0),
        Autoguidance(Weak(denoiser(variance=0.9), 2.0), scale=1.0),
    ):
        here = given(network, 3.0)._replace(prompts=["1", "2"])
        torch.testing.assert_close(guidance.wrap(here)(X, T).clean, NoGuidance().wrap(here)(X, T).clean)


def test_guidance_refuses_nonsense():
    for options, message in (
        ({"interval": (0.5, 0.2)}, "low <= high"),
        ({"rescale": 2}, "guidance.rescale=2 cannot be"),
        ({"threshold": 0}, "guidance.threshold=0 cannot be"),
        *(({"scale": scale}, f"guidance.scale={scale} cannot be") for scale in (math.nan, math.inf)),
    ):
        with pytest.raises(ValueError, match=message):
            ClassifierFreeGuidance(**{"scale": 2.0, **options})
    with pytest.raises(ValueError, match=r"guidance.scale=1e\+30 cannot be; give a finite number"):
        ClassifierFreeGuidance(1e30)
    with pytest.raises(ValueError, match="guidance.scale=nan cannot be"):
        LossGuidance(None, scale=math.nan)
