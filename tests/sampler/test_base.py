from itertools import pairwise

import pytest
import torch

from ldm.diffusion.schedule import RectifiedFlowSchedule, ScaledLinearSchedule
from ldm.sampler.base import StartPoint
from ldm.sampler.churn import Churn
from ldm.sampler.ddim import DDIM
from ldm.sampler.ddpm import DDPM
from ldm.sampler.dpmpp import DPMPP2M, DPMPP2MSDE
from ldm.sampler.euler import Euler, EulerAncestral
from ldm.sampler.heun import Heun
from ldm.sampler.noise import SeededNoise
from ldm.sampler.plms import PLMS
from ldm.sampler.timestep_spacing import KarrasSpacing
from ldm.sampler.unipc import UniPC
from tests.sampler.cases import name
from tests.sampler.gaussian import Gaussian
from tests.sampler.kinds import EVERY, STOCHASTIC
from tests.sampler.toolbox import OURS, START


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_deterministic_samplers_alone_draw_no_noise_on_their_way(kind, options):
    noise, calls = SeededNoise([1]), []
    draw = noise.draw
    noise.draw = lambda *arguments: calls.append(1) or draw(*arguments)
    sampler = kind(5, **options)
    sampler.sample(Gaussian(ScaledLinearSchedule(), 0.5), ScaledLinearSchedule(), noise, (1, 4, 4))
    assert (len(calls) > 1) == sampler.draws == ((kind, options) in STOCHASTIC.values())


@pytest.mark.parametrize(
    ("kind", "calls"),
    [*((kind, 10) for kind in (DDIM, DDPM, Euler, EulerAncestral, DPMPP2M, DPMPP2MSDE, UniPC)), (PLMS, 11), (Heun, 19)],
)
def test_number_of_calls_of_the_denoiser(kind, calls):
    data, count = Gaussian(ScaledLinearSchedule(), 0.5), []
    kind(10).sample(lambda x, t: count.append(1) or data(x, t), ScaledLinearSchedule(), SeededNoise([1]), (1, 2, 2))
    assert len(count) == calls


@pytest.mark.parametrize("schedule", [ScaledLinearSchedule(), RectifiedFlowSchedule()], ids=name)
def test_where_steps_begin_before_pure_noise_x_t_has_the_size_that_it_has_there(schedule):
    """Of data of unit variance, exactly denoised: they stay that."""
    sampler = UniPC(200, timestep_spacing=KarrasSpacing(first=0.8))
    got = sampler.sample(Gaussian(schedule, 1.0), schedule, SeededNoise(range(10)), (1, 60, 60))
    assert float(got.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_strength_says_how_much_of_the_image_stays_and_the_data_stay_the_data(kind, options):
    data, init = Gaussian(OURS, 1.0, mean=0.5), 0.5 + torch.randn(400, 1, 4, 4)
    correlation = []
    for strength in (0.0, 0.3, 0.7, 1.0):
        got = kind(50, **options).sample(
            data, OURS, SeededNoise(range(400)), (1, 4, 4), start_point=StartPoint(init, strength)
        )
        correlation.append(float(torch.corrcoef(torch.stack([got.flatten(), init.flatten()]))[0, 1]))
        assert float(got.mean()) == pytest.approx(0.5, abs=0.1)
        assert float(got.var()) == pytest.approx(1.0, abs=0.2)
        if strength == 0:
            assert torch.equal(got, init)
    assert correlation[0] > correlation[1] + 0.1
    assert all(more > less - 0.05 for more, less in pairwise(correlation)), "samplers that draw forget it soon"
    assert correlation[1] > correlation[3] + 0.1
    assert correlation[3] < 0.15


@pytest.mark.parametrize(("kind", "options"), EVERY.values(), ids=EVERY)
def test_an_image_depends_on_its_seed_alone(kind, options):
    data = Gaussian(OURS, 0.5, mean=0.3)
    together = kind(12, **options).sample(data, OURS, SeededNoise([4, 9, 2]), (2, 4, 4))
    alone = kind(12, **options).sample(data, OURS, SeededNoise([9]), (2, 4, 4))
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_samplers_refuse_nonsense():
    for make, message in (
        (lambda: DDIM(0), "sampler.steps=0 cannot be; give a whole number, at least 1"),
        (lambda: DDIM(5, eta=-1), "eta"),
        (lambda: EulerAncestral(5, eta=2), "eta"),
        (lambda: UniPC(5, order=4), "sampler.order=4 cannot be; give a whole number from 1 to 3"),
        (lambda: Churn(-1), "churn.amount=-1 cannot be"),
        (
            lambda: DDIM(5).sample(None, OURS, SeededNoise([0]), (1, 2, 2), start_point=StartPoint(strength=0.5)),
            "needs an image to begin with",
        ),
        (
            lambda: DDIM(5).sample(None, OURS, SeededNoise([0]), (1, 2, 2), start_point=StartPoint(START, 2)),
            "strength=2 cannot be",
        ),
        (
            lambda: DDIM(5).sample(None, OURS, SeededNoise([0]), (1, 2, 2), start_point=StartPoint(num_resample=0)),
            "num_resample=0 cannot be",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
