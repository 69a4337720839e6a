"""Whether a run agrees with an expected curve: the rule keeps its promises on curves whose law is known."""

import math
import random

import pytest
import torch

from ldm.compare.agreement import FACTOR, FACTOR_OF_FEW, LEAST, expectations, judge
from ldm.compare.expected import ExpectedCurve
from ldm.report.run_folder import RunFiles, StageFiles

STEPS = 12


def run_of(points):
    stage = StageFiles("diffusion", {"val/loss": points, "train/loss": points}, {}, {}, {}, None)
    return RunFiles("a", {}, None, [stage], [])


def curve_of(values):
    seeds = max(map(len, values.values()))
    return ExpectedCurve("a", seeds, {("diffusion", name): values for name in ("val/loss", "train/loss")})


def walk(random_numbers, correlation):
    """Return values of mean 0 and deviation 1, each of which depends on the one before."""
    value = random_numbers.gauss(0, 1)
    for _ in range(STEPS):
        yield value
        value = correlation * value + math.sqrt(1 - correlation**2) * random_numbers.gauss(0, 1)


def disagreements(seeds, correlation, shift, tries=400):
    """Return the share of runs that are said to disagree with curves of the same law, but for a shift in deviations."""
    random_numbers = random.Random(0)
    wrong = 0
    for _ in range(tries):
        curves = [list(walk(random_numbers, correlation)) for _ in range(seeds)]
        expected = curve_of({step: [100 + curve[step] for curve in curves] for step in range(STEPS)})
        points = [(step, 100 + shift + value) for step, value in enumerate(walk(random_numbers, correlation))]
        (found,) = judge(run_of(points), expected)
        wrong += not found.agrees
    return wrong / tries


@pytest.mark.parametrize(("seeds", "far"), [(2, 200.0), (3, 25.0), (5, 10.0)])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_seeds_agree_with_seeds_and_what_is_far_away_does_not(seeds, far, correlation):
    assert disagreements(seeds, correlation, 0.0) <= 0.02
    assert disagreements(seeds, correlation, far) >= 0.97


def test_more_seeds_tell_more():
    assert disagreements(5, 0.5, 5.0) > 0.75
    assert disagreements(3, 0.5, 5.0) < disagreements(4, 0.5, 5.0) < disagreements(5, 0.5, 5.0)


def test_the_spread_is_pooled_over_neighbours_and_widened_for_few_seeds():
    values = {step: [10.0 * step - 1, 10.0 * step + 1] for step in range(1, 8)}
    found = expectations(values)
    assert found.keys() == values.keys()
    assert found[4].mean == 40
    assert found[4].spread == pytest.approx(math.sqrt(2)), "the mean of a step is its own, not that of the neighbours"
    assert found[4].width == pytest.approx(FACTOR_OF_FEW[2] * math.sqrt(2) * math.sqrt(1.5))
    assert found[4].holds(40 + found[4].width)
    assert not found[4].holds(40 + found[4].width * 1.001)
    assert not found[4].holds(math.nan)


def test_a_perfect_score_of_all_seeds_has_a_spread():
    found = expectations({step: [1.0, 1.0, 1.0] for step in range(6)})
    assert found[5].spread == 0
    assert found[5].width == pytest.approx(LEAST * math.sqrt(4 / 3))
    assert found[5].holds(0.98)
    assert not found[5].holds(0.95)


def test_too_few_values_decide_nothing():
    assert expectations({step: [1.0] for step in range(20)}) == {}
    assert expectations({1: [1.0, 2.0], 2: [1.0, 2.0], 3: [1.0, 2.0]}) == {}
    assert expectations({1: [1.0, 2.0, 3.0], 2: [1.0, 2.0, math.nan]}) == {}
    assert len(expectations({1: [1.0, 2.0, 3.0], 2: [1.0, 2.0, 3.0]})) == 2
    values = {step: [1.0, 1.1, 0.9] for step in range(6)}
    assert judge(run_of([(7, 1.0)]), curve_of(values)) == [], "no step in common"


def test_only_what_validation_measures_is_judged():
    values = {step: [1.0, 1.1, 0.9] for step in range(6)}
    (found,) = judge(run_of([(step, 1.0) for step in range(6)]), curve_of(values))
    assert (found.metric, found.steps, found.inside, found.at_end, found.step) == ("val/loss", 6, 6, True, 5)
    assert found.agrees
    (found,) = judge(run_of([(step, 1.0) for step in range(5)] + [(5, 9.0)]), curve_of(values))
    assert found.inside == 5
    assert not found.agrees, "the end counts"
    (found,) = judge(run_of([(0, 9.0)] + [(step, 1.0) for step in range(1, 6)]), curve_of(values))
    assert found.agrees, "once may be chance"
    (found,) = judge(run_of([(0, 9.0), (1, 9.0)] + [(step, 1.0) for step in range(2, 6)]), curve_of(values))
    assert not found.agrees, "and so does the way"


def test_the_step_at_which_a_run_is_farthest_outside_is_named():
    """Of those before the end; where the end itself lies outside, that is named."""
    values = {step: [1.0, 1.1, 0.9] for step in range(30)}
    early = {3: 5.0, 7: 9.0, 9: 6.0, 11: 4.0}
    (found,) = judge(run_of([(step, early.get(step, 1.0)) for step in range(30)]), curve_of(values))
    assert (found.agrees, found.inside, found.at_end, found.step, found.value) == (False, 26, True, 7, 9.0)
    (found,) = judge(run_of([(step, 3.0 if step == 29 else 1.0) for step in range(30)]), curve_of(values))
    assert (found.agrees, found.inside, found.at_end, found.step, found.value) == (False, 29, False, 29, 3.0)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6])
def test_few_seeds_permit_what_students_t_does(seeds):
    """The limits of many samples of a normal law hold 99 of 100 further values, where the spread is known from these alone."""
    generator = torch.Generator().manual_seed(seeds)
    drawn = torch.randn(20000, seeds + 1, generator=generator, dtype=torch.float64)
    known, further = drawn[:, :-1], drawn[:, -1]
    factor = FACTOR_OF_FEW.get(seeds, FACTOR)
    width = factor * known.std(1) * math.sqrt(1 + 1 / seeds)
    assert float(((further - known.mean(1)).abs() <= width).double().mean()) == pytest.approx(0.99, abs=0.003)


def test_the_spread_of_a_loss_falls_with_it_and_that_of_a_score_is_pooled_as_it_is():
    falling = {step: [8.0 / 2**step * share for share in (0.9, 1.0, 1.1)] for step in range(5)}
    found = expectations(falling)
    assert [found[step].spread / found[step].mean for step in range(5)] == pytest.approx([0.1] * 5)
    assert found[4].holds(0.5)
    assert not found[4].holds(0.5 + found[4].width + 0.01)
    rising = {step: [step + share for share in (0.9, 1.0, 1.1)] for step in range(5)}
    assert [one.spread for one in expectations(rising).values()] == pytest.approx([0.1] * 5)
    below_zero = {step: [-step + share for share in (0.9, 1.0, 1.1)] for step in range(5)}
    assert [one.spread for one in expectations(below_zero).values()] == pytest.approx([0.1] * 5)
