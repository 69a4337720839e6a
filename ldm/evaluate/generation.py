"""Measuring generated images: those of a latent diffusion model, of several checkpoints, or anybody's in a folder."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from ldm.checkpoint import MODEL_FILE
from ldm.config import resolved
from ldm.evaluate.evaluation import ImageEvaluation
from ldm.evaluate.own import GENERATED, Results
from ldm.evaluate.protocol import Protocol, begin_measuring
from ldm.evaluate.several import measure_models
from ldm.evaluate.source import run_config
from ldm.model import LatentDiffusion
from ldm.options.rule import COUNT, FLAG, SEED, SIZE, Optional, Rule, check_all

log = logging.getLogger(__name__)

OPTIONS: dict[str, Rule] = {
    "num_images": Optional(COUNT, "as many as there are conditions, at most 5000"),
    "seed": SEED,
    "size": Optional(SIZE, "as in training"),
    "batch_size": COUNT,
    "unrounded": Optional(FLAG, "images are measured as they are in their files"),
    "data.size": Optional(SIZE, "as in training"),
    "data.val_images": Optional(COUNT, "as in training"),
}
"""The rules of the command's options."""


class GenerationProtocol(Protocol):
    """Measures images that a model generates, one for each of some conditions, or images of a folder.

    Args:
        name: See `Protocol`; so are published and source.
    """

    def run(self, config: DictConfig) -> list[Results]:
        """See `Protocol.run`."""
        check_all(resolved(config), OPTIONS)
        named = [name for name in ("ckpt", "ckpts", "images") if config[name] is not None]
        if len(named) != 1:
            got = " and ".join(named) or "none"
            raise ValueError(f"give one of ckpt=RUN, ckpts='runs/x/**/step-*.ckpt' and images=FOLDER; got {got}")
        for name in ("decoder", "lora") if config.images is not None else ():
            if config[name] is not None:
                raise ValueError(f"{name}= belongs to a model, and images= are measured as they are; leave it out")
        if config.perceptual is not None:
            raise ValueError(
                "perceptual= measures reconstructions alone; choose protocol=reconstruction, or leave it out"
            )
        if config.statistics is not None and config.ckpts is not None:
            raise ValueError("statistics= is a file for the images of one model; give ckpt= in place of ckpts=")
        begin_measuring(config)
        out = Path(config.out)
        try:
            return self._measure(config, out)
        except KeyboardInterrupt:
            log.warning("what is finished stays in %s; the same command goes on from there", out)
            raise

    def of_model(self, config: DictConfig, ckpt: str, out: Path) -> Results:
        """Measure one model.

        Args:
            config: See `Protocol.run`.
            ckpt: A run folder, or a checkpoint.
            out: A folder for what is written.

        Returns:
            The results, on processes after the first without scores.

        Raises:
            ValueError: See `Protocol.run`.
        """
        return ImageEvaluation(self, config, run=run_config(ckpt)).of_model(ckpt, out)

    def _measure(self, config: DictConfig, out: Path) -> list[Results]:
        if config.images is not None:
            return [ImageEvaluation(self, config, run=None).of_folder(config.images, out)]
        return measure_models(
            config, GENERATED, LatentDiffusion, (MODEL_FILE,), lambda ckpt, folder: self.of_model(config, ckpt, folder)
        )
