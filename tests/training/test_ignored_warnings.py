"""Warnings of Lightning that tell a user nothing to act upon are not shown; each is still worded as it is looked for."""

import warnings

import pytest
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger

from ldm.training.run import IGNORED_WARNINGS


@pytest.mark.parametrize("ignored", [False, True])
def test_few_batches_an_epoch_are_not_warned_of(tmp_path, ignored):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for pattern in IGNORED_WARNINGS if ignored else ():
            warnings.filterwarnings("ignore", f"(?s){pattern}")
        trainer = pl.Trainer(
            max_steps=1,
            accelerator="cpu",
            logger=CSVLogger(tmp_path),
            log_every_n_steps=1000,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )
        trainer.fit(BoringModel())
    assert any("logging interval" in str(one.message) for one in heard) == (not ignored)
