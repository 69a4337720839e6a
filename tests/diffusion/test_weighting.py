import pytest
import torch

from ldm.diffusion import weighting as weightings
from ldm.diffusion.prediction import NoisePrediction, VelocityPrediction
from ldm.diffusion.schedule import ScaledLinearSchedule
from ldm.diffusion.weighting import ConstantWeighting, MinSNRWeighting, P2Weighting, SNRWeighting, SoftMinSNRWeighting
from tests.parts import PREDICTIONS, name


@pytest.mark.parametrize(
    "weighting",
    [SNRWeighting(), MinSNRWeighting(gamma=3), SoftMinSNRWeighting(), P2Weighting(), weightings.EDMWeighting()],
    ids=name,
)
def test_the_same_estimate_has_the_same_loss_whatever_is_predicted(weighting):
    alpha, sigma = ScaledLinearSchedule().exact(torch.linspace(0.01, 1, 50))
    snr = (alpha / sigma) ** 2
    of_clean = [
        weighting.weight(snr, prediction.gain(alpha, sigma)) * prediction.gain(alpha, sigma)
        for prediction in PREDICTIONS
    ]
    for weight in of_clean[1:]:
        torch.testing.assert_close(weight, of_clean[0])


def test_weightings_are_their_formulas_and_meet_in_their_limits():
    alpha, sigma = ScaledLinearSchedule().exact(torch.linspace(0.01, 1, 50))
    snr = (alpha / sigma) ** 2
    one = torch.ones_like(snr)
    noise, velocity = NoisePrediction().gain(alpha, sigma), VelocityPrediction().gain(alpha, sigma)
    torch.testing.assert_close(SNRWeighting().weight(snr, noise), one)
    torch.testing.assert_close(weightings.EDMWeighting().weight(snr, velocity), one)
    torch.testing.assert_close(MinSNRWeighting(gamma=5).weight(snr, noise), snr.clamp(max=5) / snr)
    torch.testing.assert_close(MinSNRWeighting(gamma=5).weight(snr, velocity), snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(MinSNRWeighting(gamma=1e9).weight(snr, noise), one)
    torch.testing.assert_close(P2Weighting(gamma=0).weight(snr, noise), one)
    torch.testing.assert_close(P2Weighting(gamma=1, k=1).weight(snr, noise), 1 / (1 + snr))
    soft, hard = SoftMinSNRWeighting(gamma=5).weight(snr, one), MinSNRWeighting(gamma=5).weight(snr, one)
    assert (soft < hard).all()
    assert (soft > hard / 2 - 1e-9).all(), "at most half of it is lost, at the bend"
    torch.testing.assert_close(soft, snr * 5 / (snr + 5))
    torch.testing.assert_close(ConstantWeighting().weight(snr, noise), one)
    for weighting in (MinSNRWeighting, SoftMinSNRWeighting):
        with pytest.raises(ValueError, match="gamma is a signal-to-noise ratio and positive"):
            weighting(gamma=0)
    with pytest.raises(ValueError, match="gamma is a power and not negative"):
        P2Weighting(gamma=-1)
