"""`python -m ldm.ema run=RUN length=0.075`; its options are in configs/ema.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Average a finished model's weights over another length."""
    program("ema", run)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.ema.average import main as do  # here, since help and mistakes need no large libraries

    do(config)
