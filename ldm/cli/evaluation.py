"""`python -m ldm.evaluation ckpt=RUN images=FOLDER out=FILE`; its options are in configs/evaluation.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Measure a first stage."""
    program("evaluation", run)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.evaluation.first_stage import (
        main as do,  # not above: help and mistyped options do not need the large libraries
    )

    do(config)
