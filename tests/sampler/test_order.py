import math
from itertools import pairwise

import pytest
import torch

from ldm.diffusion.schedule import RectifiedFlowSchedule, ScaledLinearSchedule, ZeroTerminalSchedule
from ldm.sampler.base import StartPoint
from ldm.sampler.noise import SeededNoise
from ldm.sampler.plms import PLMS
from tests.cases import mostly_slow
from tests.parts import SCHEDULES, SPACINGS, name, noise_levels_at
from tests.sampler.gaussian import Between, Gaussian
from tests.sampler.kinds import DETERMINISTIC


def is_common(schedule):
    return isinstance(schedule, ScaledLinearSchedule | RectifiedFlowSchedule | ZeroTerminalSchedule)


def error_after(kind, options, steps, schedule, first, last):
    """Root mean square distance from the exact end of the flow, in double precision."""
    data = Gaussian(schedule, 0.25, mean=0.5)
    sampler = kind(steps, timestep_spacing=Between(first, last), **options)
    start = torch.randn(4, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (noise_level,) = noise_levels_at(schedule, first)
    init = (start - noise_level.sigma * SeededNoise(range(4)).draw((1, 4, 4))) / (noise_level.alpha or 1.0)
    got = sampler.sample(data, schedule, SeededNoise(range(4)), (1, 4, 4), start_point=StartPoint(init))
    ends = torch.tensor([first, last], dtype=torch.float64)
    return float((got - data.flow(start, *ends)).square().mean().sqrt())


@pytest.mark.parametrize("schedule", mostly_slow(SCHEDULES, is_common), ids=name)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_order_of_convergence(kind, options, order, schedule):
    """Away from the ends of time: at t = 0 the flow is not smooth in t, and log(steps) / steps is what is left."""
    errors = [error_after(kind, options, steps, schedule, 0.95, 0.4) for steps in (40, 80, 160)]
    orders = [math.log2(before / after) for before, after in pairwise(errors)]
    higher = kind is PLMS and schedule.power == 1  # equal steps of its own coordinates: no less than third order
    assert order - 0.35 < orders[-1] < order + (2.5 if higher else 0.6), (errors, orders)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("schedule", mostly_slow(SCHEDULES, is_common), ids=name)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_the_end_of_the_flow_is_reached_from_pure_noise(kind, options, order, schedule):
    data, ends = Gaussian(schedule, 0.25, mean=0.5), torch.tensor([1.0, 0.0], dtype=torch.float64)
    got = kind(500, **options).sample(data, schedule, SeededNoise(range(8)), (1, 4, 4))
    expected = data.flow(SeededNoise(range(8)).draw((1, 4, 4)).double(), *ends).float()
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("grid", SPACINGS, ids=name)
@pytest.mark.parametrize(("kind", "options", "order"), DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_the_end_of_the_flow_is_reached_along_every_grid(kind, options, order, grid):
    schedule, steps, start = (
        ScaledLinearSchedule(),
        250,
        torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(2)),
    )
    data, first = Gaussian(schedule, 0.25, mean=0.5), float(grid.times(steps, schedule)[0])
    sampler = kind(steps, timestep_spacing=grid, **options)
    got = sampler.sample(data, schedule, SeededNoise(range(8)), (1, 4, 4), start_point=StartPoint(start=start))
    expected = data.flow(start.double(), *torch.tensor([first, 0.0], dtype=torch.float64))
    torch.testing.assert_close(got, expected.float(), atol=0.05 if order == 1 else 0.03, rtol=0)
