import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from ldm.diffusion.schedule import (
    CosineSchedule,
    EDMSchedule,
    LinearSchedule,
    RectifiedFlowSchedule,
    ScaledLinearSchedule,
    ShiftedSchedule,
    SigmoidSchedule,
    VariancePreservingSchedule,
    ZeroTerminalSchedule,
)
from tests.parts import MORE_SCHEDULES, name

TIMES = torch.arange(1, 1001) / 1000


@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
def test_schedule_laws(schedule):
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    alpha, sigma = schedule.exact(t)
    torch.testing.assert_close(alpha**schedule.power + sigma**schedule.power, torch.ones_like(t))
    assert float(sigma[0]) <= 0.004
    assert (sigma.diff() > 0).all(), "between grid points, too, noise only grows"
    assert (alpha.diff() <= 0).all()
    assert schedule.log_snr(t).diff()[1:-1].max() < 0, "the signal-to-noise ratio only falls"
    assert sigma.square().diff().max() < 4e-3, "no jumps"
    assert (float(alpha[-1]) == 0) == schedule.zero_terminal_snr
    assert all(part.dtype == torch.float32 for part in schedule.alpha_sigma(t))


@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
def test_time_is_the_inverse_of_the_log_snr(schedule):
    t = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, atol=1e-7, rtol=0)
    ends = schedule.time(torch.tensor([math.inf, -math.inf], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *(
            (
                ScaledLinearSchedule(start=start, end=end),
                {"beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end},
            )
            for start, end in [(0.0015, 0.0195), (0.00085, 0.012), (0.0015, 0.0155)]
        ),
        (LinearSchedule(), {"beta_schedule": "linear"}),
        (CosineSchedule(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_discrete_schedules_agree_with_diffusers_at_grid_points(ours, theirs):
    expected = DDPMScheduler(**theirs).alphas_cumprod
    alpha, sigma = ours.alpha_sigma(TIMES)
    torch.testing.assert_close(alpha**2, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(sigma**2, 1 - expected, atol=1e-6, rtol=0)


def test_zero_terminal_agrees_with_diffusers():
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    theirs = DDIMScheduler(**options, rescale_betas_zero_snr=True).alphas_cumprod
    alpha, _ = ZeroTerminalSchedule(ScaledLinearSchedule(start=0.00085, end=0.012)).alpha_sigma(TIMES)
    torch.testing.assert_close(alpha**2, theirs, atol=1e-5, rtol=0)


def test_shifted_flow_agrees_with_diffusers_and_shifts_compose():
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    _, sigma = ShiftedSchedule(RectifiedFlowSchedule(), shift=3.0).alpha_sigma(TIMES.flip(0))
    torch.testing.assert_close(sigma, theirs.sigmas[:1000], atol=1e-6, rtol=0)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for schedule in (ScaledLinearSchedule(), RectifiedFlowSchedule()):
        twice = ShiftedSchedule(ShiftedSchedule(schedule, shift=2.0), shift=0.25)
        torch.testing.assert_close(twice.exact(t), ShiftedSchedule(schedule, shift=0.5).exact(t))
        lower = schedule.log_snr(t) - ShiftedSchedule(schedule, shift=2.0).log_snr(t)
        torch.testing.assert_close(lower, torch.full_like(t, 2 * math.log(2.0)))


def test_edm_has_its_noise_levels():
    """Table 1 of the paper, for data of twice its standard deviation."""
    t = torch.linspace(0, 1, 18, dtype=torch.float64)
    alpha, sigma = EDMSchedule().exact(t)
    index = torch.arange(18).flip(0)
    expected = (80 ** (1 / 7) + index / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma / alpha, 2 * expected.double(), rtol=1e-5, atol=0)


def test_sigmoid_is_the_papers_formula():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    start, end = torch.tensor([-3.0, 3.0], dtype=torch.float64).sigmoid()
    gamma = (end - torch.sigmoid(t * 6 - 3)) / (end - start)
    torch.testing.assert_close(SigmoidSchedule().exact(t)[0] ** 2, gamma, atol=1.1e-4, rtol=0)
    start, end = torch.tensor([0.0, 3 / 0.7], dtype=torch.float64).sigmoid()
    gamma = (end - torch.sigmoid(t * 3 / 0.7)) / (end - start)
    torch.testing.assert_close(SigmoidSchedule(start=0.0, temperature=0.7).exact(t)[0] ** 2, gamma, atol=1.1e-4, rtol=0)


def test_schedules_refuse_nonsense():
    for schedule in (ScaledLinearSchedule, LinearSchedule):
        with pytest.raises(ValueError, match="0 < start <= end < 1"):
            schedule(start=0.1, end=0.01)
    with pytest.raises(ValueError, match="0 < start <= end < 1"):
        CosineSchedule(largest=1.0)
    with pytest.raises(ValueError, match="shift is a ratio"):
        ShiftedSchedule(ScaledLinearSchedule(), shift=0)
    with pytest.raises(ValueError, match="RectifiedFlowSchedule has nothing left"):
        ZeroTerminalSchedule(RectifiedFlowSchedule())
    with pytest.raises(ValueError, match="smallest < largest"):
        EDMSchedule(smallest=3, largest=2)
    with pytest.raises(ValueError, match="start < end"):
        SigmoidSchedule(start=3, end=-3)


def test_variance_preserving_is_what_it_says():
    for schedule in MORE_SCHEDULES:
        if isinstance(schedule, VariancePreservingSchedule):
            assert schedule.power == 2
    assert [a.steps for a in MORE_SCHEDULES] == [1000, 1000, 1000, None, None, None, 1000, None, None, 1000, 1000]
    assert all(early > late for early, late in pairwise(ScaledLinearSchedule().log_snr(TIMES).tolist()))
