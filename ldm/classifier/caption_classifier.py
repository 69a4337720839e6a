"""A classifier that predicts the words of the caption of a noisy latent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Fields, list_field
from ldm.classifier.base import NoisyClassifier, how_to_train
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.classifier.vocabulary import Vocabulary, words_of
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.timestep_sampler import TimestepSampler
from ldm.files.text import shortened

log = logging.getLogger(__name__)

MOST_WARNINGS = 10
"""The largest number of prompts whose unknown words are logged."""


class CaptionClassifier(NoisyClassifier):
    """A caption classifier, which predicts for each word whether the caption of a noisy latent x_t contains it.

    The logit of a word is the logit of its frequency plus the output of the network. By Bayes' rule, the network learns
    log(p(x_t | word) / p(x_t | not word)), and begins with 0. It is trained by the binary cross-entropy of each word.
    Words are taken to be independent of each other given x_t; the less noise there is, the better this holds.

    Args:
        autoencoder: See `NoisyClassifier`.
        network: See `NoisyClassifier`.
        schedule: See `NoisyClassifier`.
        timestep_sampler: See `NoisyClassifier`.
        vocabulary: Largest number of words to learn.
        size: See `NoisyClassifier`.

    References:
        Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233, with words in place of classes.
    """

    inputs = Vocabulary.inputs
    measure = "recall"

    def __init__(
        self,
        autoencoder: Autoencoder,
        network: EncoderUNet,
        schedule: Schedule,
        *,
        timestep_sampler: TimestepSampler,
        vocabulary: int,
        size: int | Sequence[int],
    ) -> None:
        words = Vocabulary(vocabulary)
        super().__init__(
            autoencoder, network, schedule, timestep_sampler=timestep_sampler, outputs=vocabulary, size=size
        )
        self.vocabulary = words
        self._warned: set[str] = set()

    @property
    def reader(self) -> Vocabulary:
        """The words that the classifier knows."""
        return self.vocabulary

    @classmethod
    def how_to_train(cls, options: str) -> str:
        """See `NoisyClassifier.how_to_train`."""
        return how_to_train(
            f"experiment=classifier {options}", "stage=classifier classifier=encoder_unet model.vocabulary=1024"
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits of the words, `(B, words)`; see `NoisyClassifier.forward`."""
        logits = self.vocabulary.log_odds + super().forward(x_t, t)
        return logits[:, : len(self.vocabulary)]

    def targets(self, fields: Fields) -> Tensor:
        """Return 1 for the words that the captions contain and 0 for the others, `(B, words)`."""
        return self.vocabulary.multi_hot(list_field(fields, "caption"))

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy in nats, the mean over all words, of each image, `(B,)`."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)

    def log_likelihood(self, x_t: Tensor, t: Tensor, fields: Fields) -> Tensor:
        """Return log p(prompt | x_t), the sum of log p(word | x_t) over the words of the prompt; differentiable.

        This is the probability that the caption of x_t contains all words of the prompt. Words that are not in the
        prompt may be in the caption or not: the sum over both cases leaves nothing of them, so a prompt does not deny
        what it does not mention. A word counts once. Words that are not in the vocabulary do not count; the log says
        which, for the first few different prompts.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`.
            fields: The prompts as `caption`, and others.

        Returns:
            The log-likelihoods, `(B,)`.

        Raises:
            ValueError: If no word of a prompt is in the vocabulary.
        """
        prompts = list_field(fields, "caption")
        for prompt in prompts:
            if not self.vocabulary.known(prompt):
                raise ValueError(
                    f"the classifier knows no word of the prompt {prompt!r}; it knows {len(self.vocabulary)}, such as "
                    f"{', '.join(list(self.vocabulary.fractions)[:8])}: use some of them, or another guidance"
                )
            self._warn(prompt)
        return (F.logsigmoid(self(x_t, t)) * self.vocabulary.multi_hot(prompts)).sum(1)

    def _warn(self, prompt: str) -> None:
        """Log once which words of a prompt count and which do not."""
        if prompt in self._warned or len(self._warned) >= MOST_WARNINGS:
            return
        self._warned.add(prompt)
        counted = self.vocabulary.known(prompt)
        others = words_of(prompt) - counted
        if others:
            log.info(
                f"for the classifier, of the prompt {shortened(prompt)!r} count {', '.join(sorted(counted))}; not "
                f"{', '.join(sorted(others))}, which were in nearly all or nearly none of its captions"
            )
