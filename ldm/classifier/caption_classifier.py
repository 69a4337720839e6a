"""A classifier that predicts the words of the caption of a noisy latent. It knows neither Lightning nor Hydra."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch, list_field
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.classifier.vocabulary import Vocabulary, words_of
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.timestep_sampler import TimestepSampler
from ldm.files.text import shortened

log = logging.getLogger(__name__)

MOST_TOLD = 10
"""Number of prompts for which the log says which of their words count."""


class CaptionClassifier(nn.Module):
    """A caption classifier, which predicts for each word whether the caption of a noisy latent x_t contains it.

    The logit of a word is the logit of its frequency plus the output of the network. By Bayes' rule, the network learns
    log(p(x_t | word) / p(x_t | not word)), and begins with 0. It is trained by the binary cross-entropy of each word,
    at the timesteps that a diffusion model is trained at. The words have no weights, because guidance needs true
    probabilities. Words are taken to be independent of each other given x_t; the less noise there is, the better this
    holds.

    Args:
        autoencoder: The autoencoder of the model that is to be guided, finished. It is frozen.
        network: The network, `(x_t, t)` -> features.
        schedule: The noise schedule of the model that is to be guided.
        timestep_sampler: The timestep sampler.
        vocabulary: Largest number of words to learn.
        size: Height and width of the training images in pixels; one number for squares.

    Raises:
        ValueError: If the autoencoder or the network cannot divide the image size.

    References:
        Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233, with words in the place of classes.
    """

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
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.network = network
        self.schedule = schedule
        self.timestep_sampler = timestep_sampler
        self.vocabulary = Vocabulary(vocabulary)
        self.head = nn.Linear(network.width, vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._joined: tuple[nn.Module, ...] = ()
        self._told: set[str] = set()
        self.check_size(size)

    def train(self, mode: bool = True) -> CaptionClassifier:
        """Set the training mode; the frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def check_size(self, size: int | Sequence[int]) -> None:
        """Raise ValueError where the autoencoder or the network cannot divide an image size."""
        self.autoencoder.check_size(size, multiple=self.network.downsampling_factor)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits of the words.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`, in [0, 1].

        Returns:
            The logits, `(B, words)`, fp32.
        """
        logits: Tensor = self.vocabulary.log_odds + self.head(self.network(x_t, t)).float()
        return logits[:, : len(self.vocabulary)]

    def loss(self, batch: Batch) -> Tensor:
        """Return the binary cross-entropy in nats, the mean over all words, of each image.

        The latents, the timesteps and the noise are drawn from torch's global generator.

        Args:
            batch: Images or cached moments, with their captions.

        Returns:
            The losses, `(B,)`.
        """
        x = self.autoencoder.latent(batch)
        t = self.timestep_sampler.sample(len(x), self.schedule, x.device)
        multi_hot = self.vocabulary.multi_hot(list_field(batch.fields, "caption"))
        return F.binary_cross_entropy_with_logits(self(self.noisy(x, t), t), multi_hot, reduction="none").mean(1)

    def noisy(self, x: Tensor, t: Tensor) -> Tensor:
        """Add the noise of timesteps to latents; it is drawn from torch's global generator.

        Args:
            x: Clean latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`.

        Returns:
            Noisy latents, `(B, C, h, w)`.
        """
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        return alpha * x + sigma * torch.randn_like(x)

    def log_likelihood(self, x_t: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return log p(prompt | x_t), the sum of log p(word | x_t) over the words of the prompt; differentiable.

        This is the probability that the caption of x_t contains all words of the prompt. Words that are not in the
        prompt may be in the caption or not: the sum over both cases leaves nothing of them, so a prompt does not deny
        what it does not mention. A word counts once. Words that are not in the vocabulary do not count; the log says
        which, for the first few different prompts.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`.
            prompts: The prompt of each, `(B,)`.

        Returns:
            The log-likelihoods, `(B,)`.

        Raises:
            ValueError: If no word of a prompt is in the vocabulary.
        """
        for prompt in prompts:
            if not self.vocabulary.known(prompt):
                raise ValueError(
                    f"the classifier knows no word of the prompt {prompt!r}; it knows {len(self.vocabulary)}, such as "
                    f"{', '.join(list(self.vocabulary.fractions)[:8])}: use some of them, or another guidance"
                )
            self._tell(prompt)
        return (F.logsigmoid(self(x_t, t)) * self.vocabulary.multi_hot(prompts)).sum(1)

    def _tell(self, prompt: str) -> None:
        """Log once which words of a prompt count and which do not."""
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
        """Prepare to guide a model with this autoencoder and this noise schedule, on the model's device.

        Args:
            autoencoder: The autoencoder of the model.
            schedule: The noise schedule of the model.

        Raises:
            ValueError: If the classifier was trained with other latents or another noise schedule.
        """
        assert isinstance(autoencoder, Autoencoder)
        if self._joined == (autoencoder, schedule):
            return  # the comparison reads all weights: once is enough
        own = self.autoencoder.to(autoencoder.shift.device)
        if not own.same_latents(autoencoder):
            raise ValueError(
                f"the classifier was trained on latents of the encoder {own.encoder_hash}, but the model has "
                f"{autoencoder.encoder_hash}, or another shift and scale of them; {how_to_train('autoencoder.ckpt=...')}"
            )
        if (t := self.schedule.first_mismatch(schedule)) is not None:
            time = torch.tensor(t, dtype=torch.float64)
            (alpha, sigma), (wanted, noise) = self.schedule.exact(time), schedule.exact(time)
            raise ValueError(
                f"at t = {t:.1f} the classifier was trained with alpha and sigma {alpha:.4f} and {sigma:.4f}, but the model with "
                f"{wanted:.4f} and {noise:.4f}; {how_to_train('autoencoder.ckpt=... schedule=...')}"
            )
        self.to(autoencoder.shift.device)
        self._joined = (autoencoder, schedule)


def how_to_train(options: str) -> str:
    """Return what to type for a classifier, on the data of the model that it shall guide.

    Args:
        options: Options that name this model, as they are typed.
    """
    command = f"python train.py experiment=classifier {options}"
    return (
        f"train one on the data of the model that it shall guide: {command} data=shards data.train=... data.val=... "
        f"data.size=... stage=classifier classifier=encoder_unet model.vocabulary=1024, or for the embedded icons {command}"
    )
