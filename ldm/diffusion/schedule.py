"""How much signal and how much noise there is at time t."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Schedule(nn.Module, ABC):
    """x_t = alpha_t x + sigma_t z for t in [0, 1], with alpha_t^2 + sigma_t^2 = 1, alpha_0 = 1.

    Paper: Kingma et al., 2021, section 3.1, arXiv:2107.00630.
    """

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """sigma_t^2 in [0, 1], float64, of the shape of t; increasing in t, zero at t = 0."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t of the shape of t, fp32."""
        variance = self.variance(t)
        return (1.0 - variance).sqrt().float(), variance.sqrt().float()

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2) of the shape of t, fp32."""
        variance = self.variance(t)
        return (torch.log1p(-variance) - variance.log()).float()


class Linear(Schedule):
    """The paper's schedule: discrete betas whose square roots are spaced linearly.

    Step i of `steps` lies at t = (i + 1) / steps. Between steps the log-SNR is interpolated linearly; before the first
    one the variance is, from zero.

    start, end  first and last beta
    steps       number of discrete steps T

    Paper: Rombach et al., 2022, appendix E.1, arXiv:2112.10752; Ho et al., 2020, eq. 4, arXiv:2006.11239.
    """

    table: Tensor

    def __init__(self, *, start: float = 0.0015, end: float = 0.0195, steps: int = 1000) -> None:
        super().__init__()
        if not 0 < start <= end < 1:
            raise ValueError(f"betas must satisfy 0 < start <= end < 1; got start={start}, end={end}")
        self.steps = steps
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        signal = torch.cumprod(1.0 - betas, dim=0)
        self.register_buffer("table", torch.logit(signal), persistent=False)

    def variance(self, t: Tensor) -> Tensor:
        place = t.double() * self.steps - 1.0
        left = place.floor().clamp(0, self.steps - 2).long()
        log_snr = torch.lerp(self.table[left], self.table[left + 1], (place - left).clamp(min=0.0))
        first = torch.sigmoid(-self.table[0]) * (place + 1.0)
        return torch.where(place < 0, first, torch.sigmoid(-log_snr))
