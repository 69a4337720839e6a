"""The work of `python -m ldm.interop.export`, which needs packages that do not import one another."""

from omegaconf import DictConfig

from ldm.checkpoint import AUTOENCODER_FILE, MODEL_FILE, find, read
from ldm.config import build
from ldm.interop.export.program import export


def run(config: DictConfig) -> None:
    """Write a model for other programs, as a config says."""
    node, weights = read(find(config.ckpt, (MODEL_FILE, AUTOENCODER_FILE)))
    export(node, weights, build(config.format), config.out, dtype=config.dtype, name=str(config.ckpt))
