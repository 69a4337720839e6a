"""A small run of Lightning's trainer, with gradient accumulation, for callbacks to be tried in."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.callback.writer import CheckpointWriter


def fit(task, callbacks, *, steps, validate_every, batches, ckpt=None):
    """Train on the numbers below `batches`, one a batch, two batches a step; validations are counted in batches."""
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
