"""Schedules, predictions, timestep samplers and timestep spacings with which the mathematics is tested."""

import torch

from ldm.diffusion.prediction import CleanPrediction, FlowPrediction, NoisePrediction, VelocityPrediction
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
from ldm.diffusion.timestep_sampler import CoshTimesteps, LogitNormalTimesteps, LogNormalTimesteps, UniformTimesteps
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
"""Those that samplers are tested with, which takes long."""

MORE_SCHEDULES = [
    *SCHEDULES,
    ZeroTerminalSchedule(SigmoidSchedule()),
    ZeroTerminalSchedule(ShiftedSchedule(ScaledLinearSchedule(), shift=2.0)),
    ShiftedSchedule(ScaledLinearSchedule(), shift=2.0),
]
"""Further pairs of the same classes, with which the schedules themselves and the losses are tested."""

PREDICTIONS = [NoisePrediction(), CleanPrediction(), VelocityPrediction(), FlowPrediction()]
TIMESTEP_SAMPLERS = [UniformTimesteps(), LogitNormalTimesteps(), LogNormalTimesteps(), CoshTimesteps()]
SPACINGS = [UniformSpacing(), TrailingSpacing(), LeadingSpacing(), QuadraticSpacing(), KarrasSpacing(), LogSNRSpacing()]


def name(part):
    inner = getattr(part, "schedule", None)
    return type(part).__name__ + (f"-{name(inner)}" if inner is not None else "")


def noise_levels_at(schedule, *times):
    return Trajectory(None, schedule, SeededNoise([]), (), "cpu").noise_levels(torch.tensor(times, dtype=torch.float64))
