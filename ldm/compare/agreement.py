"""Agreement of a run with an expected curve, within the spread of seeds.

The rule. At step k, n runs that differ in nothing but their seeds have measured m(k) on average. Their variance is estimated
from five measured steps around it, each with its own mean, together (pooled): s(k)^2. For what falls and stays positive, like
a loss, values are first divided by the mean of their step, since the spread falls with the mean. The estimate needs four degrees
of freedom, and each step gives n - 1; where there are fewer, nothing is decided. A further run lies within the spread at step k
if

    |y(k) - m(k)| <= f(n) s(k) sqrt(1 + 1/n),

where the root counts that m(k) is itself only an average of n. f(n) is 4; of five seeds and fewer it is the limit within which
Student's t with n - 1 degrees of freedom lies with a probability of 99 %, since the steps of one run are alike, and pooling them
tells less of the spread than their number says. f(n) s(k) is at least 2 % of |m(k)|, since seeds may all reach a perfect score.

A run agrees in a metric if it lies within at the last common step and at all others but a tenth, or but one where they are few:
early in training, seeds now and then differ more than a normal law says. It agrees as a whole if it agrees in every metric that
validation measures (val/..., eval/...). Of one seed there is no spread, and nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ldm.compare.expected import ExpectedCurve, Values, finite
from ldm.report.run_folder import RunFiles

FACTOR = 4.0
"""Standard deviations from the mean up to which a run lies within the spread of many seeds."""

FACTOR_OF_FEW = {2: 63.66, 3: 9.92, 4: 5.84, 5: 4.60}
"""The same for few seeds: Student's t, 99 % between both limits, with one degree of freedom less than seeds."""

POOLED = 5
"""Measured steps from which the spread at one of them is estimated: as many before as after it, where there are."""

FREEDOM = 4
"""The least number of degrees of freedom from which a spread is estimated."""

LEAST = 0.02
"""The share of the mean by which a run may always differ from it, before that is widened for the number of seeds."""

OUTSIDE = 0.1
"""The share of the common steps at which a run may lie outside of the spread; at one it always may."""

JUDGED = ("val/", "eval/")
"""The prefix of the names of metrics that are judged: validation measures them on the same images."""


@dataclass(frozen=True)
class Expectation:
    """Mean and spread of a metric at a step over seeds.

    Attributes:
        mean: Mean over the seeds.
        spread: Standard deviation over the seeds.
        seeds: Number of seeds that have the step.
    """

    mean: float
    spread: float
    seeds: int

    @property
    def width(self) -> float:
        """The largest distance from the mean within the spread."""
        of_spread = FACTOR_OF_FEW.get(self.seeds, FACTOR) * self.spread
        return max(of_spread, LEAST * abs(self.mean)) * math.sqrt(1 + 1 / self.seeds)

    def holds(self, value: float) -> bool:
        """Return whether a value lies within the spread; one that is not finite does not."""
        return abs(value - self.mean) <= self.width


@dataclass(frozen=True)
class MetricAgreement:
    """Standing of a run in one metric, beside what is expected.

    Attributes:
        stage: Name of the stage.
        metric: Name of the metric.
        steps: Number of common steps, at least 1.
        inside: Number of those at which the run lies within the spread.
        at_end: Whether the last one is among these.
        step: The last common step; where the run lies within at that but not at all, the one at which it is farthest outside.
        value: The run's value there.
        expected: The expected values there.
    """

    stage: str
    metric: str
    steps: int
    inside: int
    at_end: bool
    step: int
    value: float
    expected: Expectation

    @property
    def agrees(self) -> bool:
        """True where the run lies within the spread at the last step and at most others."""
        return self.at_end and self.steps - self.inside <= max(1, OUTSIDE * self.steps)


def expectations(values: Values) -> dict[int, Expectation]:
    """Return step -> what is expected there, of the steps at which a spread over seeds can be estimated.

    Args:
        values: Step -> the values of the seeds.
    """
    kept = {step: those for step, of_step in sorted(values.items()) if (those := finite(of_step))}
    steps = list(kept)
    falls = _falls(list(kept.values()))
    found: dict[int, Expectation] = {}
    for place, step in enumerate(steps):
        first = max(0, min(place - POOLED // 2, len(steps) - POOLED))
        near = [kept[other] for other in steps[first : first + POOLED]]
        freedom = sum(len(of_step) - 1 for of_step in near)
        if freedom < FREEDOM:
            continue
        units = [_mean(of_step) if falls else 1.0 for of_step in near]
        squares = sum(
            ((value - _mean(of_step)) / unit) ** 2
            for of_step, unit in zip(near, units, strict=True)
            for value in of_step
        )
        mean = _mean(kept[step])
        spread = math.sqrt(squares / freedom) * (mean if falls else 1.0)
        found[step] = Expectation(mean, spread, len(kept[step]))
    return found


def _falls(curve: Sequence[Sequence[float]]) -> bool:
    """Return whether values are positive at all steps and lower at the last than at the first, as those of losses."""
    positive = all(value > 0 for of_step in curve for value in of_step)
    return positive and len(curve) > 1 and _mean(curve[-1]) < _mean(curve[0])


def judge(run: RunFiles, expected: ExpectedCurve) -> list[MetricAgreement]:
    """Compare a run with an expected curve, in each metric that both have measured at a common step.

    Args:
        run: The run.
        expected: The expected curve; of one seed nothing can be said.
    """
    return [
        found
        for stage in run.stages
        for metric, points in stage.curves.items()
        if metric.startswith(JUDGED)
        and (found := _judge_metric(stage.name, metric, dict(points), expected.values.get((stage.name, metric), {})))
    ]


def _judge_metric(stage: str, metric: str, points: Mapping[int, float], values: Values) -> MetricAgreement | None:
    expected = expectations(values)
    common = [step for step in expected if step in points]
    if not common:
        return None
    outside = [step for step in common if not expected[step].holds(points[step])]
    step = last = common[-1]
    if outside and last not in outside:
        step = max(outside, key=lambda one: abs(points[one] - expected[one].mean) / expected[one].width)
    inside = len(common) - len(outside)
    return MetricAgreement(stage, metric, len(common), inside, last not in outside, step, points[step], expected[step])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
