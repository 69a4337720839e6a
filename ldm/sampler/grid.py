"""The times at which a sampler stops on its way from noise to image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.options import COUNT, POSITIVE, Optional, Real, Whole, check

DISCRETE_STEPS = 1000
"""Of a schedule that has none of its own."""

LEAST_SIGNAL, START_SIGNAL = 0.005, 0.02
"""A schedule that ends with less signal alpha_1 than the first is gone along from where there is the second. (DDPM's linear
one ends at 0.0064, the paper's at 0.068.)"""


class Grid(ABC):
    """Chooses times for a number of steps."""

    @abstractmethod
    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        """The times at which the steps start, `(steps,)` float64 in (0, 1], falling. The last step ends at 0."""

    def times(self, steps: int, schedule: Schedule) -> Tensor:
        """The starts and 0, `(steps + 1,)`. Raises ValueError where the grid has fewer different times than steps.

        Where hardly any signal is left in x_t, but some, the error of a predicted noise is divided by next to nothing.
        So no step starts there: a grid that would is shrunk. (Of the schedules here, this is for the cosine one, whose
        last alpha is 0.00005; pure noise is as good a beginning a little before.)
        """
        starts = self.starts(steps, schedule)
        starts = starts * (_latest(schedule) / starts[0]).clamp(max=1.0)
        times = torch.cat([starts, torch.zeros(1, dtype=torch.float64)])
        if not (times.diff() < 0).all():
            raise ValueError(f"{type(self).__name__} has no {steps} different times; use fewer sampler.steps")
        return times


class Uniform(Grid):
    """From 1 in equal steps, t_i = 1 - i / steps; "trailing" elsewhere, where the number of steps divides that of training.

    Paper: Lin et al., 2024, section 3.3, arXiv:2305.08891.
    """

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        return 1.0 - torch.arange(steps, dtype=torch.float64) / steps


class Trailing(Grid):
    """As `Uniform`, rounded to the discrete times of training. Paper: Lin et al., 2024, table 2, arXiv:2305.08891."""

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        whole = schedule.steps or DISCRETE_STEPS
        last = torch.floor(_latest(schedule) * whole)
        return torch.round(last - torch.arange(steps, dtype=torch.float64) * last / steps) / whole


class Leading(Grid):
    """Every k-th of T discrete times of training, counted from the first: the grid of DDIM and of the paper's own code.

    t = (k j + offset + 1) / T for j from steps - 1 down to 0.
    It does not start at pure noise, which darkens or lightens images; for comparisons with published samples.

    With k = T // steps it is the paper's code's for numbers of steps S that divide T = 1000. For others, that code makes more
    steps than S: it goes on to the end of the T times, for S = 30, 60 and 75 in 31, 63 and 77 steps. To repeat such samples,
    give k itself, `stride` = 1000 // S, and as many steps: for S = 30, sampler.steps=31 grid.stride=33.

    offset  discrete steps by which all are later
    stride  k; None: T // steps, which leaves the last times out where steps does not divide T, as diffusers does

    Paper: Song et al., 2021, appendix D.2 ("linear"), arXiv:2010.02502; Lin et al., 2024, table 2, arXiv:2305.08891.
    """

    def __init__(self, *, offset: int = 1, stride: int | None = None) -> None:
        check("grid.offset", offset, Whole(0))
        check("grid.stride", stride, Optional(COUNT, "as large as the number of steps allows"))
        self.offset = offset
        self.stride = stride

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        whole = schedule.steps or DISCRETE_STEPS
        stride = self.stride or whole // steps or 1
        if stride * (steps - 1) >= whole:
            raise ValueError(
                f"Leading has no {steps} different times {stride} apart among {whole}; use at most {-(-whole // stride)} "
                "sampler.steps, or a smaller grid.stride"
            )
        indices = torch.arange(steps, dtype=torch.float64).flip(0) * stride + self.offset
        if indices[0] / whole < max(0.9 * (steps - 1) / steps, 0.4):
            raise ValueError(
                f"Leading with {steps} steps would start at t = {float(indices[0]) / whole:.2f}, far from noise, since it takes "
                f"one in {stride} of {whole} times; use a number of steps that divides {whole}, or another grid"
            )
        return (indices.clamp(max=whole - 1) + 1.0) / whole


class Quadratic(Grid):
    """Ever smaller steps towards the image, t_i = (1 - i / steps)^2.

    Paper: Song et al., 2021, appendix D.2 ("quadratic"), arXiv:2010.02502.
    """

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        return (1.0 - torch.arange(steps, dtype=torch.float64) / steps) ** 2


class Karras(Grid):
    """Noise levels sigma_t / alpha_t that are evenly spaced in their power 1 / rho.

    level_i^(1 / rho) = first_level^(1 / rho) + i / (steps - 1) (last_level^(1 / rho) - first_level^(1 / rho))

    rho          larger: more steps at low noise
    first, last  times whose noise levels are the largest and the smallest

    Paper: Karras et al., 2022, eq. 5, arXiv:2206.00364.
    """

    def __init__(self, *, rho: float = 7.0, first: float = 1.0, last: float = 0.001) -> None:
        check("grid.rho", rho, POSITIVE)
        _check_ends(first, last)
        self.rho = rho
        self.first = first
        self.last = last

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        high, low = ((-0.5 * end).exp() ** (1 / self.rho) for end in _ends(schedule, self.first, self.last))
        level = torch.lerp(high, low, _shares(steps)) ** self.rho
        return schedule.time(-2.0 * level.log())


class LogSNR(Grid):
    """Evenly spaced in the log-SNR: log_snr(t_i) = log_snr(first) + i / (steps - 1) (log_snr(last) - log_snr(first)).

    first, last  times at which the first and the last step start

    Paper: Lu et al., 2022, section 3.2 and appendix D.4, arXiv:2206.00927.
    """

    def __init__(self, *, first: float = 1.0, last: float = 0.001) -> None:
        _check_ends(first, last)
        self.first = first
        self.last = last

    def starts(self, steps: int, schedule: Schedule) -> Tensor:
        low, high = _ends(schedule, self.first, self.last)
        return schedule.time(torch.lerp(low, high, _shares(steps)))


def _latest(schedule: Schedule) -> Tensor:
    """The latest time with enough signal for a step to start at; 1 where the schedule ends in noise."""
    one = torch.ones((), dtype=torch.float64)
    if schedule.ends_in_noise or float(schedule.exact(one)[0]) >= LEAST_SIGNAL:
        return one
    signal = torch.tensor(START_SIGNAL, dtype=torch.float64)
    return schedule.time(torch.logit(signal.square()))


def _check_ends(first: float, last: float) -> None:
    for name, time in (("first", first), ("last", last)):
        check(f"grid.{name}", time, Real(0.0, 1.0, above=True))
    if last >= first:
        raise ValueError(f"a grid needs 0 < last < first <= 1; got first={first}, last={last}")


def _ends(schedule: Schedule, first: float, last: float) -> tuple[Tensor, Tensor]:
    """The log-SNR at two times, the first of them no later than a step may start; of pure noise, that shortly before."""
    first = min(first, 0.999 if schedule.ends_in_noise else float(_latest(schedule)))
    low, high = schedule.log_snr(torch.tensor([first, last], dtype=torch.float64))
    return low, high


def _shares(steps: int) -> Tensor:
    """`steps` numbers from 0 to 1."""
    return torch.linspace(0, 1, steps, dtype=torch.float64)
