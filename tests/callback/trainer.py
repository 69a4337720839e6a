"""Run Lightning's trainer for a few steps with gradient accumulation, for tests of callbacks."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.callback.writer import CheckpointWriter


def fit(task, callbacks, *, steps, validate_every, batches, ckpt=None):
    """Train on the numbers below `batches`, one in a batch, with two batches in a step.

    `validate_every` counts batches.
    """
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=2,
        callbacks=callbacks,
        plugins=[CheckpointWriter()],
    )
    numbers = torch.arange(float(batches))
    trainer.fit(task, DataLoader(numbers, 1), DataLoader(numbers[:1], 1), ckpt_path=ckpt, weights_only=True)
