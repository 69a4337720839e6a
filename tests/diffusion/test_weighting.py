import pytest
import torch

from ldm.diffusion import weighting as weightings
from ldm.diffusion.prediction import Noise, Velocity
from ldm.diffusion.schedule import Linear
from ldm.diffusion.weighting import P2, SNR, Constant, MinSNR, SoftMinSNR
from tests.diffusion.parts import PREDICTIONS, name


@pytest.mark.parametrize("weighting", [SNR(), MinSNR(gamma=3), SoftMinSNR(), P2(), weightings.EDM()], ids=name)
def test_the_same_estimate_has_the_same_loss_whatever_is_predicted(weighting):
    alpha, sigma = Linear().exact(torch.linspace(0.01, 1, 50))
    snr = (alpha / sigma) ** 2
    of_clean = [
        weighting.weight(snr, prediction.gain(alpha, sigma)) * prediction.gain(alpha, sigma)
        for prediction in PREDICTIONS
    ]
    for weight in of_clean[1:]:
        torch.testing.assert_close(weight, of_clean[0])


def test_weightings_are_their_formulas_and_meet_in_their_limits():
    alpha, sigma = Linear().exact(torch.linspace(0.01, 1, 50))
    snr = (alpha / sigma) ** 2
    one = torch.ones_like(snr)
    noise, velocity = Noise().gain(alpha, sigma), Velocity().gain(alpha, sigma)
    torch.testing.assert_close(SNR().weight(snr, noise), one)
    torch.testing.assert_close(weightings.EDM().weight(snr, velocity), one)
    torch.testing.assert_close(MinSNR(gamma=5).weight(snr, noise), snr.clamp(max=5) / snr)
    torch.testing.assert_close(MinSNR(gamma=5).weight(snr, velocity), snr.clamp(max=5) / (snr + 1))
    torch.testing.assert_close(MinSNR(gamma=1e9).weight(snr, noise), one)
    torch.testing.assert_close(P2(gamma=0).weight(snr, noise), one)
    torch.testing.assert_close(P2(gamma=1, k=1).weight(snr, noise), 1 / (1 + snr))
    soft, hard = SoftMinSNR(gamma=5).weight(snr, one), MinSNR(gamma=5).weight(snr, one)
    assert (soft < hard).all()
    assert (soft > hard / 2 - 1e-9).all(), "at most half of it is lost, at the bend"
    torch.testing.assert_close(soft, snr * 5 / (snr + 5))
    torch.testing.assert_close(Constant().weight(snr, noise), one)
    for weighting in (MinSNR, SoftMinSNR):
        with pytest.raises(ValueError, match="gamma is a signal-to-noise ratio and positive"):
            weighting(gamma=0)
    with pytest.raises(ValueError, match="gamma is a power and not negative"):
        P2(gamma=-1)
