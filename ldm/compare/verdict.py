"""Verdicts on runs: what they are compared with, and what comes of it, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ldm.compare.agreement import JUDGED, MetricAgreement, judge
from ldm.compare.expected import ExpectedCurve, of_runs, read_expected, shipped
from ldm.compare.options import of_same_data, trained_alike
from ldm.config import CONFIGS, compose, resolved
from ldm.report.page import shown
from ldm.report.run_folder import RunFiles

RULE = (
    "The rule: at each step the spread is the standard deviation over the seeds, pooled over five validations; a run lies "
    "within it up to four standard deviations from the mean, and more of five seeds and fewer (Student's t: 10 of three). It "
    "agrees in a metric if it lies "
    "within at the last common step and at all others but a tenth, or but one where they are few, and as a whole if it agrees "
    "in every metric that validation measures (val/..., eval/...)."
)
"""The rule of `ldm.compare.agreement`, for readers of a comparison."""

NAMED = 4
"""Options that a sentence names."""

BESIDE = "autoencoder.ckpt"
"""The file that an experiment without a stage for the autoencoder is given, whose name it leaves open."""


@dataclass(frozen=True)
class Verdict:
    """Standing of one run beside an expected curve.

    Attributes:
        run: The run.
        metrics: The agreement in each metric that can be judged.
        agrees: True if it agrees in all; None where nothing can be decided.
        text: A sentence that says so.
    """

    run: RunFiles
    metrics: Sequence[MetricAgreement]
    agrees: bool | None
    text: str


def find_expected(
    runs: Sequence[RunFiles], given: Path | None
) -> tuple[ExpectedCurve | None, list[RunFiles], list[str]]:
    """Find the curve with which runs are compared.

    Args:
        runs: The runs.
        given: The file that the user has named; None: that of the experiment which comes with this program, if any of the runs
            was trained as the experiment is, or else the first runs among these that differ in nothing but their seeds, or else
            that of the experiment, where any of the runs has its data.

    Returns:
        The expected curve, or None; the runs that it was made of, which are not judged; sentences on it.

    Raises:
        ValueError: If the file is no expected curve.
    """
    if given is not None:
        expected = read_expected(given)
        return expected, [], [text for run in runs if (text := _difference(run, expected))]
    experiments = {run.experiment for run in runs}
    file = shipped(experiments.pop()) if len(experiments) == 1 else None
    curve = None if file is None else read_expected(file)
    seeds = _of_seeds(runs)
    if curve is not None and any(of_same_data(curve.options, run.config) for run in runs):
        expected = replace(curve, options={})  # the experiment of today is what runs are to agree with
        differences = [_difference(run, expected) for run in runs]
        if not seeds or not all(differences):
            came = f"Expected is the curve of experiment={expected.title}, which comes with this program."
            return expected, [], [came, *filter(None, differences)]
    if seeds:
        names = ", ".join(str(run.folder) for run in seeds)
        remark = f"Expected is what {names} have measured: they differ in their seeds alone."
        return of_runs(names, seeds), seeds, [remark]
    return (
        None,
        [],
        [
            "There is no expected curve of this experiment on these data, and no two runs differ in their seeds alone: whether "
            "differences are larger than those between seeds is unknown. Name a file, expected=FILE, or runs of several "
            "seeds."
        ],
    )


def decide_all(runs: Sequence[RunFiles], expected: ExpectedCurve, made_of: Sequence[RunFiles]) -> list[Verdict]:
    """Compare runs with an expected curve; each run that the curve was made of with the others, if these are at least two.

    Args:
        runs: The runs.
        expected: The expected curve.
        made_of: The runs among them that it was made of.
    """
    found = []
    for run in runs:
        others = [other for other in made_of if other is not run]
        if run not in made_of:
            found.append(decide(run, expected))
        elif len(others) > 1:
            found.append(decide(run, of_runs("the others", others)))
    return found


def decide(run: RunFiles, expected: ExpectedCurve) -> Verdict:
    """Compare a run with an expected curve.

    Args:
        run: The run.
        expected: The expected curve.
    """
    metrics = judge(run, expected)
    name = str(run.folder)
    if expected.seeds < 2:
        return Verdict(
            run, [], None, f"{name}: not judged, since the expected curve is of one seed, and one has no spread."
        )
    if not metrics:
        return Verdict(run, [], None, f"{name}: not judged, since {_reason(run, expected)}.")
    wrong = [one for one in metrics if not one.agrees]
    if not wrong:
        return Verdict(
            run,
            metrics,
            True,
            f"{name}: agrees in all {len(metrics)} metrics, within the spread of {expected.seeds} seeds.",
        )
    reasons = "; ".join(_describe(one) for one in wrong)
    return Verdict(run, metrics, False, f"{name}: disagrees in {len(wrong)} of {len(metrics)} metrics: {reasons}.")


def _describe(one: MetricAgreement) -> str:
    """Describe where a run lies in a metric in which it disagrees."""
    return (
        f"{one.metric} of {one.stage} is {shown(one.value)} at step {one.step:,}, where {shown(one.expected.mean)} is expected "
        f"and {shown(one.expected.width)} away is the most, and lies within at {one.inside} of {one.steps} steps"
    )


def _of_seeds(runs: Sequence[RunFiles]) -> list[RunFiles]:
    """Return the first runs that differ in nothing but their seeds; none where there are no two."""
    for first in runs:
        alike = {run.config.get("seed"): run for run in reversed(runs) if not trained_alike(first.config, run.config)}
        if len(alike) > 1:
            return [run for run in runs if run in alike.values()]
    return []


def _reason(run: RunFiles, expected: ExpectedCurve) -> str:
    """Return why a run cannot be judged."""
    measured = {
        (stage.name, metric): {step for step, _ in points}
        for stage in run.stages
        for metric, points in stage.curves.items()
        if metric.startswith(JUDGED)
    }
    known = {key: set(values) for key, values in expected.values.items() if key[1].startswith(JUDGED)}
    both = measured.keys() & known.keys()
    if not both:
        return "validation measures nothing that the expected curve has"
    if not any(measured[key] & known[key] for key in both):
        mine, theirs = (sorted(set().union(*(steps[key] for key in both))) for steps in (measured, known))
        return f"it was validated at other steps ({_steps(mine)}) than the expected curve ({_steps(theirs)})"
    return "at no step of its validations is the spread of the seeds known well enough"


def _steps(steps: Sequence[int]) -> str:
    few = [f"{step:,}" for step in steps]
    return ", ".join(few if len(few) <= NAMED else [*few[:2], "...", few[-1]])


def _difference(run: RunFiles, expected: ExpectedCurve) -> str:
    """Return a sentence on the options in which a run differs from what is expected; "" where there are none.

    Where the expected curve does not say its options, they are those of the experiment as it is today, if there is one.
    """
    experiment, of = expected.title, "was not trained as the runs of the expected curve were"
    options = expected.options
    if not options:
        if not (CONFIGS / "experiment" / f"{experiment}.yaml").is_file():
            return ""
        options, of = (
            resolved(compose("train", [f"experiment={experiment}"])),
            f"was not trained as experiment={experiment} is",
        )
    names = trained_alike(options, run.config)
    if not expected.options and "autoencoder" not in options["stage"]:
        names = [name for name in names if name != BESIDE]
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{run.folder} {of}: it differs in {', '.join(names[:NAMED])}{more}."
