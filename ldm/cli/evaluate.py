"""`python -m ldm.evaluate ckpt=RUN images=FOLDER out=FILE`; its options are in configs/evaluate.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Measure a first stage."""
    program("evaluate", run)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.evaluate.first_stage import (
        main as do,  # not above: help and mistyped options do not need the large libraries
    )

    do(config)
