"""The training step of a stage as a plan computes it: a model without its trained weights, and a batch for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch, Size, as_size
from ldm.config import resolved
from ldm.pretrained.precision import FULL
from ldm.task.base import Task
from ldm.training.stage import Stage

Meter = Callable[[str], AbstractContextManager[object]]
"""Called with the name of a part of a step; what is computed within the context counts for it."""


def no_meter(part: str) -> AbstractContextManager[object]:
    """Count nothing."""
    return nullcontext()


class Workload(ABC):
    """A stage's task on some device, with random weights, and what a training step of it computes.

    Args:
        stage: The stage.
        device: "meta", or a device on which weights take place.

    Attributes:
        task: The task.
        missing: The work that is not counted, each a sentence.
    """

    task: Task

    encodes_in: str = FULL
    """The precision in which a frozen first stage encodes."""

    keeps_gradients: bool = False
    """True where a step's gradients are still there while the next step's loss is computed, as Lightning leaves them."""

    def __init__(self, stage: Stage[Any], device: str) -> None:
        self.stage = stage
        self.device = device
        self.config = stage.run.config
        self.size: Size = as_size(resolved(self.config.data.size))
        self.missing: list[str] = []

    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return name -> modules of the parts of which the stage consists, without one in another."""

    @abstractmethod
    def batch(self, count: int) -> Batch:
        """Return a batch of images that show nothing, with all fields that a training step reads."""

    @abstractmethod
    def step(self, batch: Batch, *, adversarial: bool = True) -> None:
        """Compute losses and gradients of a batch, as a training step does, without the optimiser's step.

        Args:
            batch: The batch.
            adversarial: Whether the discriminator takes part, where there is one.
        """

    @abstractmethod
    def metered(self, batch: Batch, meter: Meter, *, adversarial: bool = True) -> None:
        """Compute the same as `step`, part by part."""

    @abstractmethod
    def trained(self) -> Sequence[nn.Module]:
        """Return the modules that have an optimizer each."""

    @property
    def adversarial_from(self) -> int | None:
        """The first step with the discriminator; None: there is none."""
        return None

    @property
    def recomputes(self) -> bool:
        """True where the stage has activation checkpointing."""
        options = self.stage.callback_configs.get("activation_checkpointing") or {}
        return bool(options.get("enabled"))

    def images(self, count: int) -> Tensor:
        """Return images `(count, 3, H, W)`, gray."""
        return torch.zeros(count, 3, *self.size, device=self.device)


def autoencoder_parts(model: Autoencoder) -> dict[str, Sequence[nn.Module]]:
    """Return the modules of the encoder, and of the decoder with all else, of an autoencoder."""
    encoding = list(model.encoding_layers())
    inside = {id(part) for module in encoding for part in module.modules()}
    return {"encoder": encoding, "decoder": [child for child in model.children() if id(child) not in inside]}
