import pytest
import torch

from ldm.sampler.churn import Churn
from ldm.sampler.ddim import DDIM
from ldm.sampler.ddpm import DDPM
from ldm.sampler.euler import Euler, EulerAncestral
from ldm.sampler.noise import SeededNoise
from tests.parts import SCHEDULES
from tests.sampler.gaussian import Gaussian


def test_ancestral_samplers_with_all_noise_are_ddpm_number_by_number():
    for schedule in SCHEDULES:
        data = Gaussian(schedule, 0.3)
        samplers = [DDPM(50), DDIM(50, eta=1.0), EulerAncestral(50)]
        got = [s.sample(data, schedule, SeededNoise([5, 6]), (1, 4, 4)) for s in samplers]
        torch.testing.assert_close(got[1], got[0], atol=1e-3, rtol=0)
        torch.testing.assert_close(got[2], got[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_ancestral_samplers_with_some_noise_are_one(eta):
    for schedule in SCHEDULES:
        data = Gaussian(schedule, 0.3, mean=0.2)
        got = [
            kind(50, eta=eta).sample(data, schedule, SeededNoise([5, 6]), (1, 4, 4)) for kind in (DDIM, EulerAncestral)
        ]
        torch.testing.assert_close(got[1], got[0], atol=1e-4, rtol=0)


def test_samplers_without_noise_are_one():
    for schedule in SCHEDULES:
        data = Gaussian(schedule, 0.3, mean=0.2)
        samplers = [DDIM(20), Euler(20), EulerAncestral(20, eta=0.0), Euler(20, churn=Churn())]
        got = [s.sample(data, schedule, SeededNoise([5, 6]), (1, 4, 4)) for s in samplers]
        for other in got[1:]:
            torch.testing.assert_close(other, got[0], atol=1e-5, rtol=0)
