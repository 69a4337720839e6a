"""The common base of tasks: a model in training, with its frozen parts kept out of checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer

from ldm.interop.foreign import CONFIG_KEY
from ldm.optim.divergence import Watch
from ldm.optim.frozen import FrozenParts
from ldm.optim.optimization import Trained
from ldm.optim.scheduler import SchedulerFactory


class Task(pl.LightningModule, ABC):
    """A model, how it is optimised, and what is written of it into checkpoints.

    Args:
        model: The model that is trained; the finished file holds it.
        optimizer: Makes the optimizer of what is trained.
        scheduler: Makes the learning-rate scheduler of an optimizer.
        config: The config that builds `model`; it goes into checkpoints.
        gradient_clip_val: Largest gradient norm; None: gradients are not clipped.
    """

    metrics: Sequence[str]
    """Names of what validation logs, without `val/`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Callable[[Trained], Optimizer],
        scheduler: SchedulerFactory,
        config: dict[str, Any],
        gradient_clip_val: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = config
        self.gradient_clip_val = gradient_clip_val
        self.watch = Watch()
        self.frozen: FrozenParts | None = None

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Names of the fields that are needed beside images or latents."""

    @property
    def keeps_init(self) -> bool:
        """True where training keeps the weights that the model began with, so that a run that goes on needs them again."""
        return False

    def adapt(self) -> None:
        """Change the model, which has what it begins with, where something other than its weights is trained."""

    def setup(self, stage: str) -> None:
        """Record which parts are frozen, once all of them are."""
        self.frozen = self.frozen or FrozenParts(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the config of the model; take out what is frozen, in the process that writes the file."""
        checkpoint[CONFIG_KEY] = self.config
        if self.frozen is not None and self.trainer.is_global_zero:
            self.frozen.leave_out(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put back what is frozen.

        Raises:
            ValueError: If the checkpoint was written with other frozen parts.
        """
        if self.frozen is not None:
            self.frozen.fill_in(checkpoint)
