"""`python train.py experiment=txt2img`; its options are in configs/train.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program
from ldm.options.arguments import command_name


def main() -> None:
    """Train a model."""
    start = f"no experiment was named; type {command_name('train')} experiment=txt2img, or --help for more"
    program("train", run, missing={"name": start})


def run(config: DictConfig) -> float | None:
    """Train the stages of a config; return the score that a sweep asks for, if it does."""
    from ldm.training.run import (
        train,  # not above: it loads the large libraries, which help and mistyped options do not need
    )

    return train(config)
