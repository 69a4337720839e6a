"""Which words would the caption of a noisy latent hold? Knows neither Lightning nor Hydra."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch, list_field
from ldm.classifier.half_unet import HalfUNet
from ldm.classifier.vocabulary import Vocabulary, words_of
from ldm.conditioner.base import shortened
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.times import Times

log = logging.getLogger(__name__)

MOST_TOLD = 10
"""Prompts of which it is said which words count."""


class WordClassifier(nn.Module):
    """Tells for each word of a vocabulary how likely it stands in the caption of a noisy latent x_t.

    The log-odds of a word are those of its frequency plus what the network reads from x_t: by Bayes' rule it learns the
    logarithm of p(x_t | word) / p(x_t | not word), and begins with 0. It is trained by the cross-entropy of each word, at
    the times that a diffusion model would be, and the words are not weighted, since guidance needs probabilities that are
    true. Words are taken to be independent of each other given x_t, which they are the more, the less noise there is.

    autoencoder  finished, frozen: that of the model that is to be guided
    network      x_t, t -> features
    schedule     that of the model that is to be guided
    times        that are trained
    vocabulary   most words that it may learn
    size         of the images that it is trained on, in pixels: one number, or height and width

    Paper: Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233, with words in the place of classes.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        network: HalfUNet,
        schedule: Schedule,
        *,
        times: Times,
        vocabulary: int,
        size: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.network = network
        self.schedule = schedule
        self.times = times
        self.vocabulary = Vocabulary(vocabulary)
        self.head = nn.Linear(network.width, vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._joined: tuple[nn.Module, ...] = ()
        self._told: set[str] = set()
        autoencoder.check_size(size, multiple=network.factor)

    def train(self, mode: bool = True) -> WordClassifier:
        """The frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t `(B, C, h, w)`, t `(B,)` in [0, 1] -> log-odds of the words `(B, words)`, fp32."""
        odds = self.vocabulary.log_odds + self.head(self.network(x_t, t)).float()
        return odds[:, : len(self.vocabulary)]

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of a word in nats, the mean over the words of each image, `(B,)`.

        Draws posterior, times and noise from torch's generator.
        """
        x = self.autoencoder.latent(batch)
        t = self.times.sample(len(x), self.schedule, x.device)
        held = self.vocabulary.held(list_field(batch.fields, "caption"))
        return F.binary_cross_entropy_with_logits(self(self.noisy(x, t), t), held, reduction="none").mean(1)

    def noisy(self, x: Tensor, t: Tensor) -> Tensor:
        """Latents `(B, C, h, w)` with the noise of times `(B,)`, drawn from torch's generator."""
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        return alpha * x + sigma * torch.randn_like(x)

    def log_likelihood(self, x_t: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return log p(prompt | x_t): the sum of log p(word | x_t) over the words of the prompt, `(B,)`, differentiable.

        x_t `(B, C, h, w)`, t `(B,)`. It is the probability that the caption of x_t holds all words of the prompt. Words that
        are not in the prompt, and may or may not be in the caption, are summed over, which leaves nothing of them: a prompt
        does not deny what it does not mention. A word counts once, and those that are not in the vocabulary do not count; the
        log says so of each of the first few different prompts.

        Raises ValueError where a prompt has no word that is.
        """
        for prompt in prompts:
            if not self.vocabulary.known(prompt):
                raise ValueError(
                    f"the classifier knows no word of the prompt {prompt!r}; it knows {len(self.vocabulary)}, such as "
                    f"{', '.join(list(self.vocabulary.shares)[:8])}: use some of them, or another guidance"
                )
            self._tell(prompt)
        return (F.logsigmoid(self(x_t, t)) * self.vocabulary.held(prompts)).sum(1)

    def _tell(self, prompt: str) -> None:
        """Log once which words of a prompt do not count."""
        if prompt in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add(prompt)
        counted = self.vocabulary.known(prompt)
        others = words_of(prompt) - counted
        if others:
            log.info(
                f"for the classifier, of the prompt {shortened(prompt)!r} count {', '.join(sorted(counted))}; not "
                f"{', '.join(sorted(others))}, which were in nearly all or nearly none of its captions"
            )

    def join(self, autoencoder: Autoencoder, schedule: Schedule) -> None:
        """Get ready to guide a model with this autoencoder and this schedule, on its device.

        Raises ValueError where the classifier was trained for other latents or other noise.
        """
        assert isinstance(autoencoder, Autoencoder)
        if self._joined == (autoencoder, schedule):
            return  # comparing them reads all weights, which each batch need not do again
        own = self.autoencoder.to(autoencoder.shift.device)
        if not own.same_latents(autoencoder):
            raise ValueError(
                f"the classifier was trained on latents of the encoder {own.encoder_hash}, but the model has "
                f"{autoencoder.encoder_hash}, or another shift and scale of them; train one for this model: "
                "python train.py experiment=classifier autoencoder.ckpt=..."
            )
        if (t := self.schedule.apart(schedule)) is not None:
            time = torch.tensor(t, dtype=torch.float64)
            (alpha, sigma), (wanted, noise) = self.schedule.exact(time), schedule.exact(time)
            raise ValueError(
                f"at t = {t:.1f} the classifier was trained with alpha and sigma {alpha:.4f} and {sigma:.4f}, but the model with "
                f"{wanted:.4f} and {noise:.4f}; train one with the schedule of this model: "
                "python train.py experiment=classifier schedule=... autoencoder.ckpt=..."
            )
        self.to(autoencoder.shift.device)
        self._joined = (autoencoder, schedule)
