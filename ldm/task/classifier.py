"""A classifier of noisy latents, to guide a latent diffusion model."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.batch import Batch, list_field
from ldm.classifier.vocabulary import Vocabulary
from ldm.classifier.words import WordClassifier
from ldm.task.latent import LatentTask

TIMES = (0.25, 0.5, 0.75)
"""Times at which validation measures how well words are told."""


class ClassifierTask(LatentTask[WordClassifier]):
    """Trains the network by the cross-entropy of the words.

    Validation logs the loss at random times, and at three times t the `word_recall`. Its options are those of LatentTask.
    """

    scores = ("loss", *(f"word_recall_{t}" for t in TIMES))

    @property
    def reader(self) -> Vocabulary:
        """The words that the classifier knows."""
        return self.model.vocabulary

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return self.training_loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss on the validation images, and how well words are told."""
        self.log_validation_loss(batch)
        x, held = self.model.autoencoder.latent(batch), self.model.vocabulary.held(list_field(batch.fields, "caption"))
        for time in TIMES:
            t = torch.full((len(x),), time, device=x.device)
            recall = word_recall(self.model(self.model.noisy(x, t), t), held)
            self.log(f"val/word_recall_{time}", recall, on_epoch=True, sync_dist=True, batch_size=int(held.sum()))


def word_recall(odds: Tensor, held: Tensor) -> Tensor:
    """Return the fraction of the words of all captions that are among the k likeliest of their image, k being their number.

    Args:
        odds: How likely each word is, `(B, words)`, on any scale that keeps the order.
        held: Which words the caption has, `(B, words)`, 1 or 0.

    Returns:
        A scalar in [0, 1], also called R-precision, here over all words together.

    References:
        Manning et al., Introduction to Information Retrieval, 2008, section 8.4.
    """
    place = odds.argsort(1, descending=True).argsort(1)
    found = held * (place < held.sum(1, keepdim=True))
    return found.sum() / held.sum().clamp(min=1)
