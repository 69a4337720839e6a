"""Classifier guidance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ldm.batch import Fields
from ldm.conditioner.base import Reader
from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import Schedule
from ldm.guidance.base import Guidance, NestedGuidance
from ldm.guidance.bayes import bayes
from ldm.guidance.context import GuidanceContext, Latents
from ldm.sampler.trajectory import Denoise


class Classifier(Protocol):
    """A classifier of noisy latents, which knows how well they fit to a prompt, or to a class."""

    @property
    def reader(self) -> Reader:
        """The part that reads the fields that it recognises."""

    def join(self, autoencoder: Latents, schedule: Schedule) -> None:
        """Prepare to guide a model with this autoencoder and this noise schedule, on the model's device.

        Raises:
            ValueError: If the classifier was trained with other latents or another noise schedule.
        """

    def log_likelihood(self, x_t: Tensor, t: Tensor, fields: Fields) -> Tensor:
        """Return log p(fields | x_t) up to a constant, differentiable.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`.
            fields: The wanted fields of the images; the captions are their prompts.

        Returns:
            The log-likelihoods, `(B,)`.
        """


class ClassifierGuidance(NestedGuidance):
    """Classifier guidance: the estimate moves towards what a classifier takes for the prompt, or for the class.

    By Bayes' rule, the guided estimate is clean + scale * sigma_t^2 / alpha_t * grad log p(y | x_t), where y is what is wanted.

    Args:
        classifier: The classifier of noisy latents, trained with the same noise schedule.
        scale: Guidance scale: 1 is Bayes' rule; larger ones give clearer images of less variety.
        guidance: The guidance on top of which it works; None: `NoGuidance`.

    References:
        Dhariwal & Nichol, 2021, algorithm 2, arXiv:2105.05233; Rombach et al., 2022, appendix C, eq. 14,
        arXiv:2112.10752.
    """

    def __init__(self, classifier: Classifier, *, scale: float = 1.0, guidance: Guidance | None = None) -> None:
        super().__init__(scale, guidance)
        self.classifier = classifier

    @property
    def readers(self) -> Sequence[Reader]:
        """Return the reader of the classifier's fields, and the readers of the guidance that it extends."""
        return (self.classifier.reader, *self.guidance.readers)

    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the guided denoiser for one batch; see `Guidance.wrap`.

        Raises:
            ValueError: If the classifier was trained with other latents or another noise schedule, or knows no such class.
        """
        for there in given.ends[1:]:  # the fields of the images were checked before the first batch
            self.classifier.reader.check(there)
        inner = self.guidance.wrap(given)
        self.classifier.join(given.autoencoder, given.denoiser.schedule)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            """Return the guided estimate."""
            estimate = inner(x_t, t)
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                fit = given.log_likelihood(partial(self.classifier.log_likelihood, x_t, t))
                (pull,) = torch.autograd.grad(fit.sum(), x_t)
            return estimate._replace(clean=estimate.clean + self.scale * bayes(pull, t, given))

        return denoise
