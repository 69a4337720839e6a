"""Timestep samplers: the distributions of the timesteps that are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.pretrained.precision import float64_device

SMALLEST = 1e-5
"""The earliest timestep that is trained: before it, there is nothing left to denoise."""


class TimestepSampler(ABC):
    """A timestep sampler: a distribution over t in [0, 1].

    Args:
        stratified: Divide the distribution into B equally likely parts and draw one timestep from each, so that a batch
            covers all noise levels and its loss has less variance. B is the batch size over all processes together
            (with gradient accumulation, of each accumulated batch by itself). Samples come in random order, so each of
            them is as likely to get any timestep as without stratification (Kingma et al., 2021, appendix I.1,
            arXiv:2107.00630).
    """

    def __init__(self, *, stratified: bool = True) -> None:
        self.stratified = stratified

    def sample(self, count: int, schedule: Schedule, device: torch.device) -> Tensor:
        """Draw timesteps from torch's global generator.

        Args:
            count: Number of timesteps.
            schedule: The noise schedule, which may have discrete timesteps.
            device: Device of the result.

        Returns:
            The timesteps, `(count,)`, fp32, in (0, 1].
        """
        exact = float64_device(device)
        fractions = torch.rand(count, device=exact, dtype=torch.float64)
        if self.stratified:
            rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
            places = torch.arange(rank, count * world, world, device=exact)
            fractions = (places + fractions) / (count * world)
        return self.quantile(fractions, schedule).float().clamp(min=SMALLEST).to(device)

    @abstractmethod
    def quantile(self, fraction: Tensor, schedule: Schedule) -> Tensor:
        """Return quantiles of the distribution.

        Args:
            fraction: Cumulative probabilities in [0, 1), of any shape, float64.
            schedule: The noise schedule.

        Returns:
            The timesteps below which t lies with these probabilities, float64, of the same shape.
        """


class UniformTimesteps(TimestepSampler):
    """The uniform distribution: over the discrete timesteps of the schedule if it has some, otherwise over [0, 1].

    Args:
        continuous: Use all of [0, 1] also if the schedule has discrete timesteps.
        stratified: See `TimestepSampler`.

    References:
        Ho et al., 2020, algorithm 1, arXiv:2006.11239.
    """

    def __init__(self, *, continuous: bool = False, stratified: bool = True) -> None:
        super().__init__(stratified=stratified)
        self.continuous = continuous

    def quantile(self, fraction: Tensor, schedule: Schedule) -> Tensor:
        """Return the fractions themselves, rounded up to the discrete timesteps where there are some."""
        if self.continuous or schedule.steps is None:
            return fraction
        return ((fraction * schedule.steps).floor() + 1.0) / schedule.steps


class LogitNormalTimesteps(TimestepSampler):
    """A logit-normal distribution: logit(t) is normal, so middle timesteps, which are hard for flows, are trained more.

    Args:
        mean: Mean of logit(t).
        std: Standard deviation of logit(t).
        stratified: See `TimestepSampler`.

    References:
        Esser et al., 2024, eq. 19, arXiv:2403.03206.
    """

    def __init__(self, *, mean: float = 0.0, std: float = 1.0, stratified: bool = True) -> None:
        super().__init__(stratified=stratified)
        self.mean = mean
        self.std = std

    def quantile(self, fraction: Tensor, schedule: Schedule) -> Tensor:
        """Return sigmoid(mean + std Phi^-1(fraction))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(fraction))


class LogNormalTimesteps(TimestepSampler):
    """EDM's distribution: the logarithm of the noise level sigma_t / alpha_t is normal, cut at the schedule's ends.

    Args:
        mean: Mean of ln(sigma_t / alpha_t). EDM's is -1.2 for data of standard deviation 0.5; for unit variance,
            as here, it is larger by ln 2.
        std: Standard deviation of ln(sigma_t / alpha_t).
        stratified: See `TimestepSampler`.

    References:
        Karras et al., 2022, section 5 and table 1, arXiv:2206.00364.
    """

    def __init__(self, *, mean: float = -0.5, std: float = 1.2, stratified: bool = True) -> None:
        super().__init__(stratified=stratified)
        self.mean = mean
        self.std = std

    def quantile(self, fraction: Tensor, schedule: Schedule) -> Tensor:
        """Return the timesteps with the noise level exp(mean + std Phi^-1(fraction))."""
        return schedule.time(-2.0 * (self.mean + self.std * torch.special.ndtri(fraction)))


class CoshTimesteps(TimestepSampler):
    """The distribution whose log-SNR has the density sech(log_snr / 2) / (2 pi), for any schedule.

    This is the distribution of the log-SNR at uniform timesteps of a cosine schedule.

    Args:
        stratified: See `TimestepSampler`.

    References:
        Kingma & Gao, 2023, table 1, arXiv:2303.00848.
    """

    def quantile(self, fraction: Tensor, schedule: Schedule) -> Tensor:
        """Return the timesteps with the log-SNR -2 ln tan(pi / 2 fraction)."""
        return schedule.time(-2.0 * torch.tan(fraction * torch.pi / 2).log())
