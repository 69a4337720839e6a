"""UniPC: a predictor and a corrector of any order, with one call of the denoiser per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.options.rule import Whole, check
from ldm.sampler.base import Sampler
from ldm.sampler.timestep_spacing import TimestepSpacing
from ldm.sampler.trajectory import REMEMBERED, HistoryEntry, NoiseLevel, Trajectory


class Node(NamedTuple):
    """A clean estimate that a step uses beside the one at its start.

    Attributes:
        lambda_: lambda = log(alpha / sigma) at which the estimate was made.
        clean: The clean estimate, `(B, C, h, w)`.
    """

    lambda_: float
    clean: Tensor


class UniPC(Sampler):
    """UniPC: a multistep predictor, and a corrector that uses the estimate at the end of a step at no further call.

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - exp(-h)) D with D = x_i + sum_m a_m (x_m - x_i) / r_m. Here x_i is the
    clean estimate at the start of the step, h is the length of the step in lambda = log(alpha_t / sigma_t), r_m is the
    place of another estimate x_m in units of the step (1 for the corrector's), and the a_m match the Taylor series of
    the exact step.

    Args:
        steps: Number of steps, one call of the denoiser each.
        order: Order of the predictor, 1 to 3. The authors advise 2 with guidance and 3 without.
        timestep_spacing: The timestep spacing; None: `UniformSpacing`.

    References:
        Zhao et al., 2023, eq. 3 to 9 and section 3.4 with B(h) = exp(h) - 1, arXiv:2302.04867.
    """

    def __init__(self, steps: int = 25, *, order: int = 2, timestep_spacing: TimestepSpacing | None = None) -> None:
        super().__init__(steps, timestep_spacing)
        check("sampler.order", order, Whole(1, REMEMBERED - 1))
        self.order = order

    def step(self, x: Tensor, here: NoiseLevel, there: NoiseLevel, trajectory: Trajectory) -> Tensor:
        """Correct the last step with the estimate at its end, then predict the next one; see `Sampler.step`."""
        now = trajectory.estimate(x, here).clean
        *before, point = trajectory.history
        if before and before[-1].noise_level.alpha:
            nodes = [*self._nodes(before), Node(here.lambda_, now)]
            x = _advance(before[-1], nodes, here)
            point = trajectory.history[-1] = point._replace(x=x)
        return _advance(point, self._nodes([*before, point]) if there.sigma else [], there)

    def _nodes(self, points: Sequence[HistoryEntry]) -> list[Node]:
        """Return the estimates that a step from the last of these points uses beside it."""
        usable = [point for point in points[-self.order : -1] if point.noise_level.alpha]
        return [Node(point.noise_level.lambda_, point.estimate.clean) for point in reversed(usable)]


def _advance(point: HistoryEntry, nodes: Sequence[Node], there: NoiseLevel) -> Tensor:
    """Return x at the noise level `there`, from a point by its estimate and those of the nodes, `(B, C, h, w)`."""
    noise_level, clean = point.noise_level, point.estimate.clean
    if nodes:
        h = there.lambda_ - noise_level.lambda_
        places = [(node.lambda_ - noise_level.lambda_) / h for node in nodes]
        weights = _weights(places, h)
        change = sum(
            (weight / place * (node.clean - clean) for weight, place, node in zip(weights, places, nodes, strict=True)),
            torch.zeros(()),
        )
        clean = clean + change
    kept = there.sigma / noise_level.sigma
    return kept * point.x + (there.alpha - kept * noise_level.alpha) * clean


def _weights(places: Sequence[float], h: float) -> list[float]:
    """Return the weights a_m of the differences at places r_m, which match the Taylor series of the exact step.

    Args:
        places: The places r_m, in units of the step, from its start.
        h: Length of the step in lambda.

    Returns:
        The weights, one per place.
    """
    if len(places) == 1:
        return [0.5]
    rows, right = [], []
    phi = math.expm1(-h) / -h - 1.0
    for power in range(len(places)):
        rows.append([place**power for place in places])
        right.append(phi * math.factorial(power + 1) / math.expm1(-h))
        phi = phi / -h - 1.0 / math.factorial(power + 2)
    system = torch.tensor(rows, dtype=torch.float64)
    weights: list[float] = torch.linalg.solve(system, torch.tensor(right, dtype=torch.float64)).tolist()
    return weights
