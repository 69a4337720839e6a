import math

import pytest
import torch

from ldm.diffusion.schedule import EDMSchedule, RectifiedFlowSchedule, ScaledLinearSchedule
from ldm.diffusion.timestep_sampler import CoshTimesteps, LogitNormalTimesteps, LogNormalTimesteps, UniformTimesteps
from tests.parts import MORE_SCHEDULES, TIMESTEP_SAMPLERS, name

CPU = torch.device("cpu")


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("schedule", [ScaledLinearSchedule(), RectifiedFlowSchedule()], ids=name)
def test_uniform_times(schedule, stratified):
    times = UniformTimesteps(stratified=stratified)
    drawn = torch.cat([times.sample(50, schedule, CPU) for _ in range(2000)])
    if schedule.steps:
        torch.testing.assert_close(drawn * 1000, (drawn * 1000).round(), atol=1e-3, rtol=0)
    assert drawn.min() > 0
    assert drawn.max() <= 1
    counts = torch.histc(drawn, bins=10, min=0, max=1) / len(drawn)
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.005, rtol=0)
    assert UniformTimesteps(continuous=True).sample(100, ScaledLinearSchedule(), CPU).mul(1000).frac().max() > 0.01


@pytest.mark.parametrize("times", TIMESTEP_SAMPLERS, ids=name)
def test_stratified_times_take_one_from_each_part_over_all_processes(times, monkeypatch):
    schedule, world, count = EDMSchedule(), 4, 8
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: world)
    drawn = []
    for rank in range(world):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        drawn.append(times.sample(count, schedule, CPU))
    edges = times.quantile(torch.arange(1, world * count, dtype=torch.float64) / (world * count), schedule)
    assert sorted(torch.bucketize(torch.cat(drawn).double(), edges).tolist()) == list(range(world * count))


def test_times_have_their_distributions():
    count = 100_000
    logit = torch.logit(LogitNormalTimesteps(mean=0.5, std=0.7).sample(count, RectifiedFlowSchedule(), CPU).double())
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(logit.std()) == pytest.approx(0.7, rel=0.01)
    level = -0.5 * EDMSchedule().log_snr(LogNormalTimesteps().sample(count, EDMSchedule(), CPU))
    assert float(level.mean()) == pytest.approx(-1.2 + math.log(2), abs=0.02)
    assert float(level.std()) == pytest.approx(1.2, rel=0.01)
    on_cosine = EDMSchedule().log_snr(CoshTimesteps().sample(count, EDMSchedule(), CPU))
    fractions = 2 / math.pi * torch.atan(torch.exp(-0.5 * on_cosine))  # uniform on the cosine schedule
    torch.testing.assert_close(
        torch.histc(fractions, 10, 0, 1) / count, torch.full((10,), 0.1).double(), atol=0.003, rtol=0
    )


@pytest.mark.parametrize("times", TIMESTEP_SAMPLERS, ids=name)
@pytest.mark.parametrize("schedule", MORE_SCHEDULES, ids=name)
def test_all_times_serve_all_schedules(times, schedule):
    drawn = times.sample(256, schedule, CPU)
    assert drawn.dtype == torch.float32
    assert ((drawn > 0) & (drawn <= 1)).all()
