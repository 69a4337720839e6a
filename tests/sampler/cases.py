"""Schedules and grids of timesteps with which the samplers are tested."""

import torch

from ldm.diffusion.schedule import EDM, Cosine, DDPMLinear, Linear, RectifiedFlow, Shifted, Sigmoid, ZeroTerminal
from ldm.sampler.grid import Karras, Leading, LogSNR, Quadratic, Trailing, Uniform
from ldm.sampler.noise import Noise
from ldm.sampler.path import Path

SCHEDULES = [
    Linear(),
    DDPMLinear(),
    Cosine(),
    Sigmoid(),
    RectifiedFlow(),
    EDM(),
    ZeroTerminal(Linear()),
    Shifted(RectifiedFlow(), shift=3.0),
]
GRIDS = [Uniform(), Trailing(), Leading(), Quadratic(), Karras(), LogSNR()]


def name(part):
    return type(part).__name__


def knots_at(schedule, *times):
    return Path(None, schedule, Noise([]), (), "cpu").knots(torch.tensor(times, dtype=torch.float64))
