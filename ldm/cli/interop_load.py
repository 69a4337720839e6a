"""`python -m ldm.interop.load SOURCE out=FILE`; its options are in configs/interop_load.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Read other people's weights."""
    program("interop_load", run, words="sources", paths=True)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.interop.load.program import main as do  # here, since help and mistakes need no large libraries

    do(config)
