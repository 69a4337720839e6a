"""Exponential moving average of the weights."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Lightning's weight averaging with a decay that warms up, so that short runs are not averages of their beginning.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), the warm-up of TensorFlow's ExponentialMovingAverage.
    Validation, and everything after training, sees the averaged weights. It must stand after callbacks that use the weights at
    the end of validation.

    decay  of the average at each optimiser step, in [0, 1)

    Paper: Ho et al., 2020, appendix B, arXiv:2006.11239 (decay 0.9999).
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average lies in [0, 1); got {decay}")
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the model to its device: Lightning copies it before the model has been moved there."""
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def apply(self, pl_module: pl.LightningModule) -> None:
        """Give the module the averaged weights, also where a run was continued that had made its last step."""
        self._copy_average_to_current(pl_module)
        self._average_model = None  # nothing is swapped from now on

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        updates = int(count)
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(averaged, current, 1.0 - decay)
