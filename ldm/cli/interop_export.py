"""`python -m ldm.interop.export ckpt=RUN out=FOLDER`; its options are in configs/interop_export.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Write a model for other programs."""
    program("interop_export", run)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    # here, since help and mistakes need no large libraries
    from ldm.checkpoint import AUTOENCODER_FILE, MODEL_FILE, find, read
    from ldm.config import build
    from ldm.interop.export.program import export

    file = find(config.ckpt, (MODEL_FILE, AUTOENCODER_FILE))
    node, weights = read(file)
    export(node, weights, build(config.format), config.out, dtype=config.dtype, name=str(config.ckpt))
