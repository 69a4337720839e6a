"""A classifier of noisy latents, to guide a latent diffusion model."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.batch import Batch, list_field
from ldm.classifier.caption_classifier import CaptionClassifier
from ldm.classifier.vocabulary import Vocabulary
from ldm.task.latent import LatentTask

TIMES = (0.25, 0.5, 0.75)
"""Times at which validation measures how well words are told."""


class ClassifierTask(LatentTask[CaptionClassifier]):
    """Trains the network by the cross-entropy of the words.

    Validation logs the loss at random times, and at three times t the `recall`. Its options are those of LatentTask.
    """

    metrics = ("loss", *(f"recall_{t}" for t in TIMES))

    @property
    def reader(self) -> Vocabulary:
        """The words that the classifier knows."""
        return self.model.vocabulary

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the fields that the classifier reads beside images or latents."""
        return self.reader.inputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return self.training_loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on the validation images, and how well words are told."""
        loss = self.model.loss(batch).mean()
        self.log("val/loss", loss, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(batch.key))
        x, multi_hot = (
            self.model.autoencoder.latent(batch),
            self.model.vocabulary.multi_hot(list_field(batch.fields, "caption")),
        )
        for time in TIMES:
            t = torch.full((len(x),), time, device=x.device)
            found = recall(self.model(self.model.noisy(x, t), t), multi_hot)
            self.log(f"val/recall_{time}", found, on_epoch=True, sync_dist=True, batch_size=int(multi_hot.sum()))


def recall(logits: Tensor, multi_hot: Tensor) -> Tensor:
    """Return the fraction of the words of all captions that are among the k likeliest of their image, k being their number.

    Args:
        logits: How likely each word is, `(B, words)`, on any scale that keeps the order.
        multi_hot: Which words the caption has, `(B, words)`, 1 or 0.

    Returns:
        A scalar in [0, 1], also called R-precision, here over all words together.

    References:
        Manning et al., Introduction to Information Retrieval, 2008, section 8.4.
    """
    place = logits.argsort(1, descending=True).argsort(1)
    found = multi_hot * (place < multi_hot.sum(1, keepdim=True))
    return found.sum() / multi_hot.sum().clamp(min=1)
