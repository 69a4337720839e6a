"""What objectives are worth on many more drawings: all 984 icons, 64 x 64 pixels.

python -m tests.benchmarks.objectives            some hours on two CPU cores; the same command again goes on

One first stage (f = 8, 16 channels), then a run for each objective with its latents, the same networks, batches, rates and
steps. All are sampled in the same way, for the same held-out captions with the same seeds. Two runs that differ in their
seed alone say what a difference is worth. Writes runs/objectives/scores.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[2]

DATA = "data.source.count=984 data.size=64".split()
FIRST_STAGE = (
    "stage=[autoencoder_icons] autoencoder.network.channel_mult=[1,2,3,3] "
    "autoencoder.network.latent_channels=16 autoencoder.network.regularizer.weight=0.02"
).split()
SECOND_STAGE = (
    "stage=[diffusion_icons] conditioner.vocabulary=4096 stage.diffusion.callbacks.ema.decay=0.995 "
    "stage.diffusion.validate_every_n_steps=1000 stage.diffusion.callbacks.evaluation.final_images=1024"
).split()

OBJECTIVES = {
    "noise, scaled linear, constant (the paper's)": "weighting=constant timestep_sampler=uniform",
    "flow, rectified flow, logit-normal timesteps": "prediction=flow schedule=rectified_flow weighting=constant",
    "velocity, zero terminal SNR": (
        "prediction=velocity schedule=zero_terminal weighting=constant timestep_sampler=uniform"
    ),
    "noise, scaled linear, P2, logit-normal timesteps": "",
    "flow, rectified flow, logit-normal timesteps, seed 1": (
        "prediction=flow schedule=rectified_flow weighting=constant seed=1"
    ),
    "flow, rectified flow, uniform timesteps": (
        "prediction=flow schedule=rectified_flow weighting=constant timestep_sampler=uniform"
    ),
    "noise, scaled linear, min-SNR 5": "weighting=min_snr timestep_sampler=uniform",
}
"""Name of an objective -> its options; what they do not say is as in experiment=txt2img."""

DEBUG = "debug=tiny data.source.count=6 data.size=32".split()
"""Options after all others that make a run quick, and of no use."""

SCORES = ("caption_accuracy", "icon_accuracy", "color_accuracy", "background_accuracy", "frechet_efficientnet")


def train(name: str, overrides: Sequence[str], options: argparse.Namespace) -> Path:
    """Train a run and return its folder; one that is finished is taken as it is."""
    command = ["train.py", "experiment=txt2img", f"name={name}", f"paths.runs_dir={options.runs}", *DATA, *overrides]
    debug = DEBUG if options.debug else []
    subprocess.run([sys.executable, *command, *debug, *options.extra], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return options.runs / name


def measure(place: int, overrides: str, first_stage: Path, options: argparse.Namespace) -> dict[str, float]:
    """Return the scores of an objective, for which a run is trained unless there is one."""
    shared = [*SECOND_STAGE, f"autoencoder.ckpt={first_stage}", f"trainer.max_steps={options.steps}"]
    run = train(f"objective-{place}", [*shared, *overrides.split()], options)
    results = json.loads((run / "diffusion" / "results.json").read_text())
    return {name: results[f"eval/{name}"] for name in SCORES}


def table(scores: dict[str, dict[str, float]]) -> str:
    """Return the scores as a table in Markdown."""
    lines = [f"| objective | {' | '.join(SCORES)} |", "| --- " * (len(SCORES) + 1) + "|"]
    for title, found in scores.items():
        cells = (f"{found[name]:.0f}" if name.startswith("frechet") else f"{found[name]:.3f}" for name in SCORES)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Compare the objectives; `extra` options go to all runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "objectives")
    parser.add_argument("--steps", type=int, default=6000, help="of each run")
    parser.add_argument("--first-steps", type=int, default=1500, help="of the first stage")
    parser.add_argument(
        "--objectives", type=int, default=len(OBJECTIVES), help="so many objectives, in the order of the list"
    )
    parser.add_argument("--debug", action="store_true", help="tiny networks and few icons, to see that it works")
    parser.add_argument("extra", nargs="*", help="options of train.py for all runs")
    options = parser.parse_args(arguments)
    first_stage = train("first-stage", [*FIRST_STAGE, f"trainer.max_steps={options.first_steps}"], options)
    scores: dict[str, dict[str, float]] = {}
    for place, (title, overrides) in enumerate(tqdm(list(OBJECTIVES.items())[: options.objectives])):
        scores[title] = measure(place, overrides, first_stage, options)
    (options.runs / "scores.json").write_text(json.dumps(scores, indent=2))
    print(f"{options.steps} steps of training\n{table(scores)}")


if __name__ == "__main__":
    main(sys.argv[1:])
