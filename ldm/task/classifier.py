"""A classifier of noisy latents, to guide a latent diffusion model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ldm.batch import Batch
from ldm.classifier.base import NoisyClassifier
from ldm.conditioner.base import Reader
from ldm.task.latent import LatentTask

TIMES = (0.25, 0.5, 0.75)
"""Timesteps at which validation measures the share of right answers."""


class ClassifierTask(LatentTask[NoisyClassifier]):
    """Trains the network by the likelihood of the right answers.

    Validation logs the loss at random times, and at three times t the share of right answers: the `recall` of the words of
    captions, or the `accuracy` of classes.

    Args:
        model: The trained model, with the autoencoder.
        **options: Those of LatentTask.
    """

    def __init__(self, model: NoisyClassifier, **options: Any) -> None:
        super().__init__(model, **options)
        self.metrics = ("loss", *(f"{model.measure}_{t}" for t in TIMES))

    @property
    def reader(self) -> Reader:
        """The part that reads the answers."""
        return self.model.reader

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the fields that the classifier reads beside images or latents."""
        return self.model.inputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return self.training_loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on the validation images, and how many answers are right."""
        loss = self.model.loss(batch).mean()
        self.log("val/loss", loss, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(batch.key))
        x, targets = self.model.autoencoder.latent(batch), self.model.targets(batch.fields)
        for time, name in zip(TIMES, self.metrics[1:], strict=True):
            t = torch.full((len(x),), time, device=x.device)
            found = recall(self.model(self.model.noisy(x, t), t), targets)
            self.log(f"val/{name}", found, on_epoch=True, sync_dist=True, batch_size=int(targets.sum()))


def recall(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of the right answers of all images that are among the k likeliest of their image, k being their number.

    Where each image has one right answer, its class, this is the top-1 accuracy.

    Args:
        logits: How likely each answer is, `(B, answers)`, on any scale that keeps the order.
        targets: Which answers are right, `(B, answers)`, 1 or 0.

    Returns:
        A scalar in [0, 1], also called R-precision, here over all answers together.

    References:
        Manning et al., Introduction to Information Retrieval, 2008, section 8.4.
    """
    place = logits.argsort(1, descending=True).argsort(1)
    found = targets * (place < targets.sum(1, keepdim=True))
    return found.sum() / targets.sum().clamp(min=1)
