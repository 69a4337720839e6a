"""Classifier guidance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Estimate
from ldm.diffusion.schedule import Schedule
from ldm.guidance.base import Guidance, Over
from ldm.guidance.bayes import bayes
from ldm.guidance.context import Given, Latents
from ldm.sampler.path import Denoise


class Classifier(Protocol):
    """What knows how well noisy latents fit to texts."""

    def join(self, autoencoder: Latents, schedule: Schedule) -> None:
        """Get ready to guide a model with this autoencoder and this schedule, on its device.

        Raises ValueError where the classifier was trained for other latents or other noise.
        """

    def log_likelihood(self, x_t: Tensor, t: Tensor, prompts: Sequence[str]) -> Tensor:
        """log p(prompt | x_t) up to a constant, `(B,)`, differentiable; x_t `(B, C, h, w)`, t `(B,)`."""


class Classified(Over):
    """Pulled towards what a classifier of noisy latents takes for the prompt: by Bayes' rule,
    clean + scale * sigma_t^2 / alpha_t * grad log p(prompt | x_t).

    classifier  trained for the noise of the same schedule
    scale       1 is Bayes' rule; more gives clearer and fewer kinds of images
    guidance    under it; None: none

    Paper: Dhariwal & Nichol, 2021, algorithm 2, arXiv:2105.05233; Rombach et al., 2022, appendix C, eq. 14,
    arXiv:2112.10752.
    """

    def __init__(self, classifier: Classifier, *, scale: float = 1.0, guidance: Guidance | None = None) -> None:
        super().__init__(scale, guidance)
        self.classifier = classifier

    def wrap(self, given: Given) -> Denoise:
        inner = self.guidance.wrap(given)
        self.classifier.join(given.autoencoder, given.denoiser.schedule)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            estimate = inner(x_t, t)
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                fit = given.log_likelihood(partial(self.classifier.log_likelihood, x_t, t))
                (pull,) = torch.autograd.grad(fit.sum(), x_t)
            return estimate._replace(clean=estimate.clean + self.scale * bayes(pull, t, given))

        return denoise
