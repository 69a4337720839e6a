"""`python -m ldm.encode autoencoder.ckpt=RUN out=DIR`; its options are in configs/encode.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Encode training images once."""
    program("encode", run)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.encode.program import main as do  # here, since help and mistakes need no large libraries

    do(config)
