"""Guidance by a score of the decoded image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.denoiser import Estimate
from ldm.guidance.base import Guidance, Over
from ldm.guidance.bayes import bayes
from ldm.guidance.context import Given
from ldm.sampler.path import Denoise


class Score(Protocol):
    """Something that images can be pulled towards."""

    def log_likelihood(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Of what is wanted, given an image `(B, 3, H, W)`, about [-1, 1]: `(B,)`, differentiable, up to a constant."""


class Scored(Over):
    """Pulled towards a high score of the image that the clean estimate decodes to, by Bayes' rule as `Classified`.

    The gradient is that of x_t, through decoder and denoiser. No part of the model is trained for it.

    score     what is wanted
    scale     1 is Bayes' rule, if the estimate were exact
    guidance  under it; None: none

    Paper: Rombach et al., 2022, appendix C, eq. 14 to 16, arXiv:2112.10752; Dhariwal & Nichol, 2021, eq. 14,
    arXiv:2105.05233.
    """

    def __init__(self, score: Score, *, scale: float = 1.0, guidance: Guidance | None = None) -> None:
        super().__init__(scale, guidance)
        self.score = score

    def wrap(self, given: Given) -> Denoise:
        inner = self.guidance.wrap(given)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                estimate = inner(x_t, t)
                image = given.autoencoder.image(estimate.clean)
                fit = given.log_likelihood(partial(self.score.log_likelihood, image))
                (pull,) = torch.autograd.grad(fit.sum(), x_t)
            clean = estimate.clean.detach() + self.scale * bayes(pull, t, given)
            return Estimate(clean, None if estimate.variance is None else estimate.variance.detach())

        return denoise
