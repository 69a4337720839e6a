"""Schedules and grids of timesteps with which the samplers are tested."""

import torch

from ldm.diffusion.schedule import (
    CosineSchedule,
    EDMSchedule,
    LinearSchedule,
    RectifiedFlowSchedule,
    ScaledLinearSchedule,
    ShiftedSchedule,
    SigmoidSchedule,
    ZeroTerminalSchedule,
)
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import (
    KarrasSpacing,
    LeadingSpacing,
    LogSNRSpacing,
    QuadraticSpacing,
    TrailingSpacing,
    UniformSpacing,
)
from ldm.sampler.trajectory import Trajectory

SCHEDULES = [
    ScaledLinearSchedule(),
    LinearSchedule(),
    CosineSchedule(),
    SigmoidSchedule(),
    RectifiedFlowSchedule(),
    EDMSchedule(),
    ZeroTerminalSchedule(ScaledLinearSchedule()),
    ShiftedSchedule(RectifiedFlowSchedule(), shift=3.0),
]
GRIDS = [UniformSpacing(), TrailingSpacing(), LeadingSpacing(), QuadraticSpacing(), KarrasSpacing(), LogSNRSpacing()]


def name(part):
    return type(part).__name__


def noise_levels_at(schedule, *times):
    return Trajectory(None, schedule, SeededNoise([]), (), "cpu").noise_levels(torch.tensor(times, dtype=torch.float64))
