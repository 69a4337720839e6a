"""What predictions, schedules, weightings, samplers and guidance are worth on icons, at equal cost.

python -m tests.benchmarks.toolbox            some three hours on two CPU cores; the same command again goes on

Trained are the default run, as it was when the study was made, then, with its autoencoder and 2,000 steps instead of 3,000, a
run for each way to train. All sampling is from the default run. Each score is over the 256 held-out captions, the same seeds
everywhere; what differs by less than two runs of the same settings with other seeds (listed as such) says nothing. Writes
runs/study/*.json, prints tables and draws docs/images/study.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from tqdm.auto import tqdm

from ldm.checkpoint import load
from ldm.config import build, compose
from ldm.data.base import DataModule
from ldm.metric.statistics import ReferenceBuilder
from ldm.metric.suite import MetricSuite
from ldm.model import LatentDiffusion

ROOT = Path(__file__).resolve().parents[2]
BASE = "study-default"
SEED = 1_000_000
ACCURACY, DISTANCE = "caption_accuracy", "frechet_efficientnet"

STUDIED = (
    "autoencoder.network.channel_mult=[1,2,4] autoencoder.network.groups=16 backbone.model_channels=64 timestep_sampler=uniform "
    "stage.autoencoder.trainer.max_steps=2800 stage.autoencoder.optimizer.lr=5e-3 stage.autoencoder.loss.squared_weight=8 "
    "autoencoder.network.regularizer.weight=0.1 stage.diffusion.trainer.max_steps=3000 stage.diffusion.callbacks.ema.decay=0.995"
).split()
"""What experiment=txt2img was when the study was made, where it has changed since; a way to train may say otherwise."""

TRAINING = {
    "noise, scaled linear, P2 (default)": "",
    "the same, seed 1": "seed=1",
    "noise, scaled linear, constant": "weighting=constant",
    "noise, scaled linear, min-SNR 1": "weighting=min_snr weighting.gamma=1",
    "noise, scaled linear, min-SNR 1, seed 1": "weighting=min_snr weighting.gamma=1 seed=1",
    "noise, scaled linear, min-SNR 5": "weighting=min_snr",
    "noise, scaled linear, soft min-SNR 5": "weighting=soft_min_snr",
    "noise, cosine, min-SNR 1": "schedule=cosine weighting=min_snr weighting.gamma=1",
    "clean, scaled linear, min-SNR 1": "prediction=clean weighting=min_snr weighting.gamma=1",
    "clean, scaled linear, constant": "prediction=clean weighting=constant",
    "velocity, scaled linear, min-SNR 1": "prediction=velocity weighting=min_snr weighting.gamma=1",
    "velocity, scaled linear, constant": "prediction=velocity weighting=constant",
    "velocity, cosine, constant": "prediction=velocity schedule=cosine weighting=constant",
    "velocity, sigmoid, constant": "prediction=velocity schedule=sigmoid weighting=constant",
    "velocity, zero terminal SNR, constant": "prediction=velocity schedule=zero_terminal weighting=constant",
    "velocity, EDM, EDM, log-normal timesteps": "prediction=velocity schedule=edm weighting=edm timestep_sampler=log_normal",
    "flow, scaled linear, constant": "prediction=flow weighting=constant",
    "flow, rectified flow, constant": "prediction=flow schedule=rectified_flow weighting=constant",
    "flow, rectified flow, constant, logit-normal timesteps": (
        "prediction=flow schedule=rectified_flow weighting=constant timestep_sampler=logit_normal"
    ),
}
SAMPLERS = ("ddim", "ddpm", "plms", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
STEPS = (5, 10, 20, 50, 250)
SLOW = ("ddim", "ddpm")
"""Samplers that are also tried with the last number of steps; where it ends, the others are at a fifth of it."""
GUIDANCE = {
    "none": "guidance=none",
    **{f"classifier-free {scale:g}": f"guidance.scale={scale:g}" for scale in (1.5, 2, 3, 5, 8)},
    "classifier-free 5, t in [0.2, 0.8]": "guidance.scale=5 guidance.interval=[0.2,0.8]",
    "classifier-free 5, rescaled by 0.7": "guidance.scale=5 guidance.rescale=0.7",
    "classifier-free 5, threshold 3": "guidance.scale=5 guidance.threshold=3",
    **{f"autoguidance {scale:g}": f"guidance=autoguidance guidance.scale={scale:g}" for scale in (1.5, 2, 3)},
    **{f"classifier {scale:g}": f"guidance=classifier guidance.scale={scale:g}" for scale in (1, 2, 4)},
}


class Score(NamedTuple):
    """One line of a table."""

    accuracy: float
    distance: float


Wanted = dict[str, Callable[[], Score]]
"""Lines of a table by title, and what measures each."""


def studied(overrides: Sequence[str]) -> list[str]:
    """The settings of the study, changed by those of a run."""
    return list({option.partition("=")[0]: option for option in [*STUDIED, *overrides]}.values())


def train(name: str, overrides: list[str], options: argparse.Namespace, experiment: str = "txt2img") -> Path:
    """A finished run; one that is there is taken."""
    if experiment == "txt2img" and not options.debug:
        overrides = studied(overrides)
    command = ["train.py", f"experiment={experiment}", f"name={name}", f"paths.runs_dir={options.runs}", *overrides]
    tiny = {"txt2img": "tiny", "classifier": "tiny_classifier"}
    debug = [f"debug={tiny[experiment]}"] if options.debug else []
    subprocess.run([sys.executable, *command, *debug, *options.extra], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return options.runs / name


class Evaluator:
    """Scores ways to sample models."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        config = compose("train", ["experiment=txt2img", *(["debug=tiny"] if options.debug else []), *options.extra])
        self.data: DataModule = build(config.data)
        self.suite = MetricSuite(build(config.metric).values())
        self.fields = self.data.val_set.fields_of(range(len(self.data.val_set)))
        builders = {name: ReferenceBuilder(self.suite.extractors[name]) for name in self.suite.real_features}
        for builder in builders.values():
            for batch in self.data.val_pass(64):
                builder.update(batch.fields["image"], range(len(batch.key)))
        self.references = {name: builder.reference() for name, builder in builders.items()}

    def score(self, model: LatentDiffusion, *overrides: str) -> Score:
        """Of all held-out captions, sampled with these options of sample.py."""
        config = compose("sample", ["ckpt=none", *overrides])
        seeds = range(SEED, SEED + len(self.fields["caption"]))
        images = model.sample(
            prompts=self.fields["caption"],
            seeds=seeds,
            sampler=build(config.sampler),
            guidance=build(config.guidance),
            batch_size=128,
        )
        self.suite.reset()
        self.suite.update(images, self.fields, range(len(images)))
        values = self.suite.compute(self.references)
        return Score(values[ACCURACY], values[DISTANCE])


def by_training(evaluator: Evaluator, base: Path) -> Wanted:
    """Runs that differ in what they train on, all with the autoencoder of one, sampled in the same way."""

    def score(place: int, overrides: str) -> Score:
        shared = [f"autoencoder.ckpt={base}", f"stage.diffusion.trainer.max_steps={evaluator.options.steps}"]
        return evaluator.score(load(train(f"study-{place:02d}", [*shared, *overrides.split()], evaluator.options)))

    return {title: partial(score, place, overrides) for place, (title, overrides) in enumerate(TRAINING.items())}


def by_sampler(evaluator: Evaluator, model: LatentDiffusion) -> Wanted:
    """Each sampler with as many calls of the network: Heun makes half the steps."""
    *few, many = evaluator.options.calls
    wanted = {}
    for sampler, calls in [*product(SAMPLERS, few), *product(SLOW, [many])]:
        steps = max(1, (calls + 1) // 2) if sampler == "heun" else calls
        wanted[f"{sampler} {calls}"] = partial(evaluator.score, model, f"sampler={sampler}", f"sampler.steps={steps}")
    return wanted


def by_guidance(evaluator: Evaluator, model: LatentDiffusion, weak: Path, classifier: Path) -> Wanted:
    """Each kind of guidance, with the default sampler."""
    second = {"autoguidance": f"guidance.weak.path={weak}", "classifier": f"guidance.classifier.path={classifier}"}
    wanted = {}
    for title, overrides in GUIDANCE.items():
        kind, *rest = overrides.split()
        path = [second[name] for name in second if kind == f"guidance={name}"]
        wanted[title] = partial(evaluator.score, model, kind, *rest, *path)
    return wanted


def kept(file: Path, wanted: Wanted) -> dict[str, Score]:
    """All scores: those that are in the file, others now, each written there at once."""
    found = json.loads(file.read_text()) if file.is_file() else {}
    scores = {title: Score(*found[title]) for title in wanted if title in found}
    for title in tqdm([title for title in wanted if title not in scores], desc=file.stem):
        scores[title] = wanted[title]()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(scores, indent=2))
    return {title: scores[title] for title in wanted}


def table(title: str, scores: dict[str, Score]) -> str:
    """As Markdown."""
    lines = [f"| {title} | caption_accuracy | frechet_efficientnet |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {name} | {s.accuracy:.3f} | {s.distance:.0f} |" for name, s in scores.items()])


def sampler_table(scores: dict[str, Score], calls: tuple[int, ...]) -> str:
    """A line a sampler, a column a number of calls."""
    lines = [f"| accuracy / distance after | {' | '.join(map(str, calls))} calls |", "| --- " * (len(calls) + 1) + "|"]
    for sampler in SAMPLERS:
        found = (scores.get(f"{sampler} {steps}") for steps in calls)
        cells = ("" if score is None else f"{score.accuracy:.2f} / {score.distance:.0f}" for score in found)
        lines.append(f"| {sampler} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(file: Path, training: dict, samplers: dict, guidance: dict, calls: tuple[int, ...]) -> None:
    """Distances by way of training, by sampler and by guidance, beside one another."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1, 1.2])
    for axes, scores, title in ((left, training, "ways to train"), (right, guidance, "guidance")):
        axes.plot([score.distance for score in scores.values()], list(scores), "o", color="#4c78a8")
        for place, score in enumerate(scores.values()):
            accuracy, where = f"{score.accuracy:.2f}", (score.distance, place)
            axes.annotate(accuracy, where, (6, 0), textcoords="offset points", va="center", size=7)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.grid(axis="y", linestyle=":")
        axes.set_title(f"{title}: Fréchet distance (caption accuracy)", fontsize=9)
        axes.tick_params(labelsize=7)
    for sampler in SAMPLERS:
        found = [
            (count, samplers[f"{sampler} {count}"].distance) for count in calls if f"{sampler} {count}" in samplers
        ]
        middle.plot(*zip(*found, strict=True), marker=".", label=sampler)
    middle.set_xscale("log")
    middle.set_xticks(calls, [str(count) for count in calls], minor=False)
    middle.set_xticks([], minor=True)
    distances = [score.distance for score in samplers.values()]
    middle.set_ylim(0.9 * min(distances), 1.1 * max(distances))
    middle.set_xlabel("calls of the network")
    middle.set_title("samplers: Fréchet distance", fontsize=9)
    middle.legend(fontsize=7)
    figure.savefig(file, dpi=90)


def main(arguments: list[str]) -> None:
    """The whole study; `extra` options go to all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--steps", type=int, default=2000, help="of each run")
    parser.add_argument("--calls", type=int, nargs="+", default=STEPS, help="of the network, for samplers")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "study.png")
    parser.add_argument("--debug", action="store_true", help="tiny networks and few icons, to see that it works")
    parser.add_argument("extra", nargs="*", help="options of train.py for all runs")
    options = parser.parse_args(arguments)
    folder, calls = options.runs / "study", tuple(options.calls)
    base = train(BASE, [], options)
    classifier = train("study-classifier", [f"autoencoder.ckpt={base}"], options, "classifier")
    evaluator, model = Evaluator(options), load(base)
    training = kept(folder / "training.json", by_training(evaluator, base))
    samplers = kept(folder / "samplers.json", by_sampler(evaluator, model))
    guidance = kept(folder / "guidance.json", by_guidance(evaluator, model, options.runs / "study-00", classifier))
    print(table(f"{options.steps} steps of training with", training))
    print(sampler_table(samplers, calls))
    print(table("guidance", guidance))
    draw(options.plot, training, samplers, guidance, calls)
    print(f"plot: {options.plot}")


if __name__ == "__main__":
    main(sys.argv[1:])
