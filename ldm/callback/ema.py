"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ldm.callback.steps import StepCounter


class EMA(pl.Callback):
    """An average of the trained weights with a decay that warms up, so that short runs are not averages of their beginning.

    The decay after n updates is min(decay, (1 + n) / (10 + n)), the warm-up of TensorFlow's ExponentialMovingAverage.
    Validation sees the averaged weights, and so does everything after `apply`. Averages are kept in fp32, of what is trained
    alone. It must stand after callbacks that use the weights at the end of validation.

    In a checkpoint `state_dict` has the averages, and `current_model_state` the weights themselves.

    Args:
        decay: Fraction of the average that stays at each optimiser step, in [0, 1).

    Raises:
        ValueError: If the decay is outside [0, 1).

    References:
        Ho et al., 2020, appendix B, arXiv:2006.11239 (decay 0.9999).
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average lies in [0, 1); got {decay}")
        self.decay = decay
        self._weights: dict[str, nn.Parameter] = {}
        self._averages: dict[str, Tensor] = {}
        self._updates = 0
        self._steps = StepCounter()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Record which weights are trained."""
        if stage == "fit":
            self._weights = {name: part for name, part in pl_module.named_parameters() if part.requires_grad}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Follow the model to its device."""
        self._averages = {name: average.to(pl_module.device) for name, average in self._averages.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after an optimiser step."""
        if not self._steps.advances(trainer):
            return
        current = {name: weight.detach().float() for name, weight in self._weights.items()}
        if self._updates == 0:
            self._averages = {name: weight.clone() for name, weight in current.items()}
        else:
            self._average(list(self._averages.values()), list(current.values()), self._updates)
        self._updates += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the averaged weights to validation."""
        self._swap()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the trained weights back."""
        self._swap()

    @torch.no_grad()
    def apply(self) -> None:
        """Keep the averaged weights in the module, also where a continued run had already made its last step."""
        for name, average in self._averages.items():
            self._weights[name].copy_(average)
        self._averages = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser step of the last update."""
        return {"latest_update_step": self._steps.made}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the optimiser step of the last update."""
        self._steps.made = state_dict["latest_update_step"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the averages, and the weights themselves, to a checkpoint."""
        state = checkpoint["state_dict"]
        checkpoint["current_model_state"] = {name: state[name] for name in self._weights}
        checkpoint["state_dict"] = {**state, **self._averages}
        checkpoint["averaging_state"] = {"n_averaged": self._updates}

    @torch.no_grad()
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the averages out of the module, which has loaded them, and put its weights back."""
        self._averages = {name: checkpoint["state_dict"][name].float().clone() for name in self._weights}
        self._updates = int(checkpoint["averaging_state"]["n_averaged"])
        for name, weight in self._weights.items():
            weight.copy_(checkpoint["current_model_state"][name])

    @torch.no_grad()
    def _average(self, averaged: list[Tensor], current: list[Tensor], count: int) -> None:
        decay = min(self.decay, (1 + count) / (10 + count))
        get_ema_multi_avg_fn(decay)(averaged, current, count)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._averages.items():
            weight = self._weights[name]
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)
