"""Noise schedules: how much signal and how much noise a noisy latent has at timestep t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ldm.pretrained.precision import float64, has_float64


class Schedule(nn.Module, ABC):
    """A noise schedule, which gives alpha_t and sigma_t for each timestep t in [0, 1].

    A noisy latent is x_t = alpha_t x + sigma_t z, with the clean latent x and standard normal noise z. alpha_t falls
    from about 1 and sigma_t grows from about 0: at t = 0 there is next to no noise. For data of unit variance, x_1 is
    about standard normal. Only the noise level sigma_t / alpha_t matters: two schedules with the same noise levels
    differ by a scaling of x_t (Kingma et al., 2021, section 3.1, arXiv:2107.00630).

    Attributes:
        steps: Number of discrete timesteps (i + 1) / steps for which it was published; None: it is continuous.
        power: The exponent for which alpha_t ** power + sigma_t ** power = 1.
        zero_terminal_snr: Whether the terminal SNR is zero: nothing of the data is left at t = 1.
    """

    steps: int | None = None
    power: int
    zero_terminal_snr: bool = False

    @abstractmethod
    def exact(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t, float64, of the shape of t."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t, fp32, of the shape of t."""
        alpha, sigma = self.exact(float64(t))
        return alpha.float().to(t.device), sigma.float().to(t.device)

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha_t^2 / sigma_t^2), float64, of the shape of t; infinite where alpha_t or sigma_t is zero."""
        alpha, sigma = self.exact(t)
        return 2.0 * (alpha.log() - sigma.log())

    def first_mismatch(self, other: Schedule) -> float | None:
        """Return a timestep at which another schedule has another alpha or sigma; None if both are the same."""
        times = torch.arange(0.1, 1.0, 0.2, dtype=torch.float64)
        ours, theirs = torch.stack(self.exact(times)), torch.stack(other.exact(times))
        same = torch.isclose(ours, theirs, rtol=1e-4).all(0)
        return None if same.all() else float(times[~same][0])

    def time(self, log_snr: Tensor) -> Tensor:
        """Return the timesteps of log-SNRs, float64: the inverse of `log_snr` by bisection, or the nearest timestep."""
        low, high = torch.zeros_like(log_snr, dtype=torch.float64), torch.ones_like(log_snr, dtype=torch.float64)
        for _ in range(40):
            middle = 0.5 * (low + high)
            noisy = self.log_snr(middle) < log_snr
            low, high = torch.where(noisy, low, middle), torch.where(noisy, middle, high)
        return 0.5 * (low + high)


class VariancePreservingSchedule(Schedule, ABC):
    """A variance-preserving schedule, alpha_t^2 + sigma_t^2 = 1 (Song et al., 2021, section 3.4, arXiv:2011.13456)."""

    power = 2

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """Return sigma_t^2, float64, of the shape of t."""

    def exact(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(1 - sigma_t^2) and sigma_t."""
        variance = self.variance(t)
        return (1.0 - variance).clamp(min=0.0).sqrt(), variance.sqrt()


class DiscreteSchedule(VariancePreservingSchedule, ABC):
    """A schedule that is made of T discrete betas. Step i, from 0 to T - 1, lies at t = (i + 1) / T.

    Between the steps, the log-SNR is interpolated linearly; before the first step, the variance is, from zero
    (Ho et al., 2020, eq. 4, arXiv:2006.11239).

    Args:
        betas: beta_1 to beta_T, `(T,)`, float64.
    """

    table: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        self.steps = len(betas)
        self.register_buffer("table", torch.logit(torch.cumprod(1.0 - betas, dim=0)), persistent=False)
        self._copied: tuple[Tensor, Tensor] | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the table, but not to a device that has no float64."""
        if not has_float64(fn(torch.empty(0)).device):
            return self
        moved: nn.Module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def variance(self, t: Tensor) -> Tensor:
        """Return sigma_t^2, interpolated between the discrete steps."""
        table = self._table(t.device)
        place = t.double() * len(table) - 1.0
        left = place.floor().clamp(0, len(table) - 2).long()
        log_snr = torch.lerp(table[left], table[left + 1], (place - left).clamp(min=0.0))
        first = torch.sigmoid(-table[0]) * (place + 1.0)
        return torch.where(place < 0, first, torch.sigmoid(-log_snr))

    def _table(self, device: torch.device) -> Tensor:
        """Return the table on a device; a copy on the CPU is kept, since a sampler's noise levels are computed there."""
        if device.type != "cpu":
            return self.table.to(device)
        if self._copied is None or self._copied[0] is not self.table:
            self._copied = self.table, self.table.cpu()
        return self._copied[1]


class ScaledLinearSchedule(DiscreteSchedule):
    """The LDM schedule ("linear" in LDM, "scaled_linear" in diffusers): betas with linearly spaced square roots.

    alpha_t^2 = prod_(j <= i) (1 - beta_j) with sqrt(beta_i) = sqrt(start) + (i - 1) / (T - 1) (sqrt(end) - sqrt(start))

    Args:
        start: The first beta, in (0, 1).
        end: The last beta, in (0, 1), not below start.
        steps: Number of discrete steps T.

    References:
        Rombach et al., 2022, appendix E.1, arXiv:2112.10752.
    """

    def __init__(self, *, start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> None:
        check_betas(start, end)
        super().__init__(torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2)


class LinearSchedule(DiscreteSchedule):
    """DDPM's schedule ("linear" in diffusers): beta_i = start + (i - 1) / (T - 1) (end - start).

    Args:
        start: The first beta, in (0, 1).
        end: The last beta, in (0, 1), not below start.
        steps: Number of discrete steps T.

    References:
        Ho et al., 2020, section 4, arXiv:2006.11239.
    """

    def __init__(self, *, start: float = 1e-4, end: float = 0.02, steps: int = 1000) -> None:
        check_betas(start, end)
        super().__init__(torch.linspace(start, end, steps, dtype=torch.float64))


class CosineSchedule(DiscreteSchedule):
    """The cosine schedule: alpha_t^2 = f(t) / f(0) with f(t) = cos^2(pi / 2 (t + s) / (1 + s)).

    Args:
        offset: s, which keeps the first betas from being too small.
        largest: The largest beta, in (0, 1); larger ones are cut to it.
        steps: Number of discrete steps T.

    References:
        Nichol & Dhariwal, 2021, eq. 17, arXiv:2102.09672.
    """

    def __init__(self, *, offset: float = 0.008, largest: float = 0.999, steps: int = 1000) -> None:
        check_betas(largest, largest)
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        signal = torch.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
        super().__init__((1.0 - signal[1:] / signal[:-1]).clamp(max=largest))


class SigmoidSchedule(VariancePreservingSchedule):
    """The sigmoid schedule: it spends more time at middle noise levels, which large images need.

    sigma_t^2 = (g(t) - g(0)) / (g(1) - g(0)) (1 - smallest)
    with g(t) = sigmoid((start + t (end - start)) / temperature)

    Args:
        start: Argument of the sigmoid at t = 0, before it is divided by the temperature.
        end: The same at t = 1; above start.
        temperature: Divisor of the argument, positive. With larger ones, sigma_t^2 is nearer to a straight line.
        smallest: alpha_1^2, in (0, 1).

    References:
        Jabri et al., 2023, appendix B, arXiv:2212.11972.
    """

    def __init__(
        self, *, start: float = -3.0, end: float = 3.0, temperature: float = 1.0, smallest: float = 1e-4
    ) -> None:
        super().__init__()
        if not (start < end and temperature > 0 and 0 < smallest < 1):
            raise ValueError(
                "a sigmoid needs start < end, temperature > 0 and smallest in (0, 1); "
                f"got {start}, {end}, {temperature}, {smallest}"
            )
        self.start = start
        self.end = end
        self.temperature = temperature
        self.smallest = smallest

    def variance(self, t: Tensor) -> Tensor:
        """Return sigma_t^2 by the formula above."""
        first, last = (1 / (1 + math.exp(-place / self.temperature)) for place in (self.start, self.end))
        place = (self.start + (self.end - self.start) * t.double()) / self.temperature
        return (torch.sigmoid(place) - first) / (last - first) * (1.0 - self.smallest)


class RectifiedFlowSchedule(Schedule):
    """The schedule of flow matching, a straight line from data to noise: alpha_t = 1 - t, sigma_t = t.

    References:
        Liu et al., 2022, eq. 1, arXiv:2209.03003; Lipman et al., 2023, section 4.1, arXiv:2210.02747.
    """

    power = 1
    zero_terminal_snr = True

    def exact(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - t and t."""
        t = t.double()
        return 1.0 - t, t


class EDMSchedule(VariancePreservingSchedule):
    """EDM's schedule: the noise levels are evenly spaced in their power 1 / rho.

    sigma_t / alpha_t = (smallest^(1 / rho) + t (largest^(1 / rho) - smallest^(1 / rho)))^rho

    This is EDM for data of unit variance, as latents are: its input scaling gives the variance-preserving x_t, its
    output scaling the velocity prediction. EDM's own 0.002 to 80, for a standard deviation of 0.5, are doubled here.

    Args:
        smallest: sigma_t / alpha_t at t = 0, positive.
        largest: sigma_t / alpha_t at t = 1, above smallest.
        rho: Exponent of the spacing.

    References:
        Karras et al., 2022, eq. 5 and table 1, arXiv:2206.00364.
    """

    def __init__(self, *, smallest: float = 0.004, largest: float = 160.0, rho: float = 7.0) -> None:
        super().__init__()
        if not 0 < smallest < largest:
            raise ValueError(f"noise levels must satisfy 0 < smallest < largest; got {smallest} and {largest}")
        self.smallest = smallest
        self.largest = largest
        self.rho = rho

    def variance(self, t: Tensor) -> Tensor:
        """Return sigma_t^2 by the formula above."""
        low, high = self.smallest ** (1 / self.rho), self.largest ** (1 / self.rho)
        level: Tensor = (low + (high - low) * t.double()) ** self.rho
        return level.square() / (1.0 + level.square())


class ZeroTerminalSchedule(VariancePreservingSchedule):
    """A schedule with zero terminal SNR: another schedule whose alpha_t is shifted and scaled so that alpha_1 = 0.

    alpha_t becomes (alpha_t - alpha_1) alpha_f / (alpha_f - alpha_1), where f is the first discrete step, or t = 0 of a
    continuous schedule; alpha_f stays as it is. A prediction of the noise cannot be used with it, because it says
    nothing about the image at t = 1.

    Args:
        schedule: The other schedule, variance-preserving and with signal left at t = 1.

    References:
        Lin et al., 2024, algorithm 1, arXiv:2305.08891.
    """

    zero_terminal_snr = True

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        if schedule.power != 2 or schedule.zero_terminal_snr:
            raise ValueError(
                f"{type(schedule).__name__} has nothing left at t = 1 as it is, or keeps no variance; use it without "
                "zero_terminal"
            )
        self.schedule = schedule
        self.steps = schedule.steps

    def variance(self, t: Tensor) -> Tensor:
        """Return sigma_t^2; before the first discrete step it grows linearly from zero."""
        t = t.double()
        begin = 0.0 if self.steps is None else 1.0 / self.steps
        first, last = (self._alpha(torch.full_like(t, end)) for end in (begin, 1.0))
        alpha = (self._alpha(t) - last) * first / (first - last)
        early = (1.0 - first.square()) * (t / begin if begin else 0.0)
        return torch.where(t < begin, early, 1.0 - alpha.square())

    def _alpha(self, t: Tensor) -> Tensor:
        """Return alpha_t of the other schedule."""
        return self.schedule.exact(t)[0]


class ShiftedSchedule(Schedule):
    """Another schedule with each noise level sigma_t / alpha_t multiplied by `shift`, for larger images.

    An image of twice the resolution needs twice the noise level to lose as much of its content. For the rectified
    flow, this is t -> shift t / (1 + (shift - 1) t).

    Args:
        schedule: The other schedule.
        shift: The factor, positive: for example the resolution, divided by that for which the schedule was made.

    References:
        Hoogeboom et al., 2023, section 3.1, arXiv:2301.11093; Esser et al., 2024, eq. 23, arXiv:2403.03206.
    """

    def __init__(self, schedule: Schedule, *, shift: float) -> None:
        super().__init__()
        if shift <= 0:
            raise ValueError(f"shift is a ratio of noise levels and positive; got {shift}")
        self.schedule = schedule
        self.steps = schedule.steps
        self.power = schedule.power
        self.zero_terminal_snr = schedule.zero_terminal_snr
        self.shift = shift

    def exact(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t at the multiplied noise level."""
        alpha, sigma = self.schedule.exact(t)
        more = self.shift * sigma
        length = (alpha**self.power + more**self.power) ** (1 / self.power)
        return alpha / length, more / length


def check_betas(start: float, end: float) -> None:
    """Raise ValueError if two numbers cannot be the first and the last beta."""
    if not 0 < start <= end < 1:
        raise ValueError(f"betas must satisfy 0 < start <= end < 1; got start={start}, end={end}")
