"""`python -m ldm.compare runs/a runs/b`; its options are in configs/compare.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Compare runs."""
    program("compare", run, words="runs", paths=True)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.compare.program import main as do  # here, since help and mistakes need no large libraries

    do(config)
