"""Pictures of a run, which go to its folder and to the loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from ldm.batch import Batch, tensor_field
from ldm.callback.steps import steps_made
from ldm.files.picture import grid
from ldm.files.run_names import CAPTIONS
from ldm.files.whole import write_whole


def show(
    trainer: pl.Trainer, name: str, images: Tensor, *, columns: int | None = None, captions: Sequence[str] = ()
) -> Path:
    """Write images as one grid into the stage's folder and to loggers that take pictures.

    Args:
        trainer: The trainer, in a validation; outside of training the pictures are those of its last step.
        name: The name of the pictures.
        images: `(N, 3, H, W)` in [-1, 1].
        columns: Images in a row; None: about as many as there are rows.
        captions: A line for each image, row by row, that says what it was made for; they are written beside the picture, into a
            text file of its name. None, or empty ones alone: nothing is written.

    Returns:
        The file.
    """
    step = steps_made(trainer)
    path = Path(trainer.default_root_dir) / "pictures" / f"{name}-{step:08d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = grid(images, columns=columns)
    sheet.save(path)
    if any(captions):
        write_whole(path.with_suffix(CAPTIONS), "".join(f"{caption}\n" for caption in captions))
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key=name, images=[sheet], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(sheet), step, dataformats="HWC")
    return path


def finish_pictures(loggers: Sequence[Logger]) -> None:
    """End the runs of loggers that would otherwise take the next stage for the same one."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


class Reconstructions(pl.Callback):
    """Draws images, each above its reconstruction, at each validation of an autoencoder.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int = 16) -> None:
        self.count = count

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx or not trainer.is_global_zero or trainer.sanity_checking or "image" not in batch.fields:
            return
        images, reconstructions = tensor_field(batch.fields, "image")[: self.count].cpu(), outputs[: self.count].cpu()
        show(trainer, "reconstructions", torch.cat([images, reconstructions], dim=2))
