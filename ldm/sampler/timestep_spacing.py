"""Timestep spacings: the timesteps at which a sampler stops on its way from noise to latents."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.options.rule import COUNT, FLAG, POSITIVE, Optional, Real, Whole, check

DISCRETE_STEPS = 1000
"""Number of discrete timesteps for a continuous schedule, which has none of its own."""

LEAST_SIGNAL, START_SIGNAL = 0.005, 0.02
"""Bounds of alpha_1: if a schedule ends with alpha_1 below the first, sampling starts where alpha_t is the second.

(DDPM's linear schedule ends with 0.0064, that of the LDM paper with 0.068.)
"""


class TimestepSpacing(ABC):
    """A timestep spacing, which chooses the timesteps for a number of steps.

    Attributes:
        end: The discrete timestep at which the last step ends, counted from 1; 0: at clean latents.
    """

    end: int = 0

    @abstractmethod
    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the timesteps at which the steps start.

        Args:
            steps: Number of steps.
            schedule: The noise schedule.

        Returns:
            The timesteps, `(steps,)`, float64, in (0, 1], in falling order.
        """

    def times(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the timesteps at which the steps start, and behind them the one at which the last step ends: 0, or `end`.

        No step starts where hardly any signal is left in x_t, but some: there, the error of a predicted noise is
        divided by next to nothing. If the first timestep is that late, all of them are scaled down. (Of the schedules
        here, this concerns the cosine one, whose last alpha is 0.00005. Pure noise is as good a start a little
        earlier.)

        Args:
            steps: Number of steps.
            schedule: The noise schedule.

        Returns:
            The timesteps, `(steps + 1,)`, float64, in falling order.

        Raises:
            ValueError: If there are fewer different timesteps than steps.
        """
        starts = self.starts(steps, schedule)
        starts = starts * (_latest(schedule) / starts[0]).clamp(max=1.0)
        last = torch.full((1,), self.end / (schedule.steps or DISCRETE_STEPS), dtype=torch.float64)
        times = torch.cat([starts, last])
        if not (times.diff() < 0).all():
            raise ValueError(f"{type(self).__name__} has no {steps} different times; use fewer sampler.steps")
        return times


class UniformSpacing(TimestepSpacing):
    """Equal steps from t = 1: t_i = 1 - i / steps.

    It is "trailing" in diffusers if the number of steps divides that of training.

    References:
        Lin et al., 2024, section 3.3, arXiv:2305.08891.
    """

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return 1 - i / steps."""
        return 1.0 - torch.arange(steps, dtype=torch.float64) / steps


class TrailingSpacing(TimestepSpacing):
    """The "trailing" spacing of diffusers: `UniformSpacing`, rounded to the discrete timesteps of training.

    References:
        Lin et al., 2024, table 2, arXiv:2305.08891.
    """

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return equal steps from the last discrete timestep, rounded to discrete timesteps."""
        whole = schedule.steps or DISCRETE_STEPS
        last = torch.floor(_latest(schedule) * whole)
        return torch.round(last - torch.arange(steps, dtype=torch.float64) * last / steps) / whole


class LeadingSpacing(TimestepSpacing):
    """The "leading" spacing of diffusers, DDIM and the LDM code: every k-th discrete timestep, from the first.

    t = (k j + offset + 1) / T for j from steps - 1 down to 0, with T discrete timesteps of training. It does not start
    at pure noise, which makes images darker or lighter; use it to compare with published samples.

    With k = T // steps it equals the LDM code if the number of steps S divides T = 1000. Otherwise that code makes
    more than S steps, because it goes on to the end of the T timesteps: 31, 63 and 77 steps for S = 30, 60 and 75. To
    repeat such samples, set `stride` to 1000 // S and use as many steps: for S = 30, sampler.steps=31 timestep_spacing.stride=33.

    That code also ends at the first discrete timestep instead of at clean latents, which leaves a little noise in them, and so
    does `noisy_end`.

    Args:
        offset: Discrete steps by which all timesteps are later, not negative.
        stride: k, at least 1. None: T // steps; like diffusers, this leaves out the last timesteps if the number of
            steps does not divide T.
        noisy_end: End at the first discrete timestep, t = 1 / T, instead of at t = 0; `offset` is then at least 1.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Song et al., 2021, appendix D.2 ("linear"), arXiv:2010.02502; Lin et al., 2024, table 2, arXiv:2305.08891.
    """

    def __init__(self, *, offset: int = 1, stride: int | None = None, noisy_end: bool = False) -> None:
        check("timestep_spacing.noisy_end", noisy_end, FLAG)
        check("timestep_spacing.offset", offset, Whole(1 if noisy_end else 0))
        check("timestep_spacing.stride", stride, Optional(COUNT, "as large as the number of steps allows"))
        self.offset = offset
        self.stride = stride
        self.end = 1 if noisy_end else 0

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return every k-th discrete timestep.

        Raises:
            ValueError: If there are too few timesteps, or the first one would be far from pure noise.
        """
        whole = schedule.steps or DISCRETE_STEPS
        stride = self.stride or whole // steps or 1
        if stride * (steps - 1) >= whole:
            raise ValueError(
                f"LeadingSpacing has no {steps} different times {stride} apart among {whole}; use at most {-(-whole // stride)} "
                "sampler.steps, or a smaller timestep_spacing.stride"
            )
        indices = torch.arange(steps, dtype=torch.float64).flip(0) * stride + self.offset
        if indices[0] / whole < max(0.9 * (steps - 1) / steps, 0.4):
            raise ValueError(
                f"LeadingSpacing with {steps} steps would start at t = {float(indices[0]) / whole:.2f}, far from noise, since it "
                f"takes one in {stride} of {whole} times; use a number of steps that divides {whole}, or another timestep_spacing"
            )
        return (indices.clamp(max=whole - 1) + 1.0) / whole


class QuadraticSpacing(TimestepSpacing):
    """Steps that get smaller towards the image: t_i = (1 - i / steps)^2.

    References:
        Song et al., 2021, appendix D.2 ("quadratic"), arXiv:2010.02502.
    """

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return (1 - i / steps)^2."""
        return (1.0 - torch.arange(steps, dtype=torch.float64) / steps) ** 2


class KarrasSpacing(TimestepSpacing):
    """The spacing of Karras et al.: noise levels sigma_t / alpha_t that are evenly spaced in their power 1 / rho.

    level_i^(1 / rho) = first_level^(1 / rho) + i / (steps - 1) (last_level^(1 / rho) - first_level^(1 / rho))

    Args:
        rho: Exponent of the spacing, positive; a larger one makes more steps at low noise levels.
        first: Timestep at which the first step starts (the highest noise level), in (0, 1].
        last: Timestep at which the last step starts (the lowest noise level), in (0, 1], below `first`.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Karras et al., 2022, eq. 5, arXiv:2206.00364.
    """

    def __init__(self, *, rho: float = 7.0, first: float = 1.0, last: float = 0.001) -> None:
        check("timestep_spacing.rho", rho, POSITIVE)
        _check_ends(first, last)
        self.rho = rho
        self.first = first
        self.last = last

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the timesteps of the noise levels level_i."""
        high, low = ((-0.5 * end).exp() ** (1 / self.rho) for end in _ends(schedule, self.first, self.last))
        level = torch.lerp(high, low, _fractions(steps)) ** self.rho
        return schedule.time(-2.0 * level.log())


class LogSNRSpacing(TimestepSpacing):
    """Timesteps that are evenly spaced in the log-SNR (in the lambda of DPM-Solver).

    log_snr(t_i) = log_snr(first) + i / (steps - 1) (log_snr(last) - log_snr(first))

    Args:
        first: Timestep at which the first step starts, in (0, 1].
        last: Timestep at which the last step starts, in (0, 1], below `first`.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Lu et al., 2022, section 3.2 and appendix D.4, arXiv:2206.00927.
    """

    def __init__(self, *, first: float = 1.0, last: float = 0.001) -> None:
        _check_ends(first, last)
        self.first = first
        self.last = last

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the timesteps of the evenly spaced log-SNRs."""
        low, high = _ends(schedule, self.first, self.last)
        return schedule.time(torch.lerp(low, high, _fractions(steps)))


def _latest(schedule: Schedule) -> Tensor:
    """Return the latest timestep with enough signal for a step to start at; 1 if the schedule has zero terminal SNR."""
    one = torch.ones((), dtype=torch.float64)
    if schedule.zero_terminal_snr or float(schedule.exact(one)[0]) >= LEAST_SIGNAL:
        return one
    signal = torch.tensor(START_SIGNAL, dtype=torch.float64)
    return schedule.time(torch.logit(signal.square()))


def _check_ends(first: float, last: float) -> None:
    """Raise ValueError unless 0 < last < first <= 1."""
    for name, time in (("first", first), ("last", last)):
        check(f"timestep_spacing.{name}", time, Real(0.0, 1.0, above=True))
    if last >= first:
        raise ValueError(f"a timestep spacing needs 0 < last < first <= 1; got first={first}, last={last}")


def _ends(schedule: Schedule, first: float, last: float) -> tuple[Tensor, Tensor]:
    """Return the log-SNR at two timesteps; the first is moved to where a step may start, and away from pure noise."""
    first = min(first, 0.999 if schedule.zero_terminal_snr else float(_latest(schedule)))
    low, high = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64))
    return low, high


def _fractions(steps: int) -> Tensor:
    """Return `steps` evenly spaced numbers from 0 to 1, `(steps,)`, float64."""
    return torch.linspace(0, 1, steps, dtype=torch.float64)
