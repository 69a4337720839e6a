"""Guidance by a score (the negative of a loss) of the image that the clean estimate decodes to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ldm.batch import Fields, list_field
from ldm.diffusion.denoiser import Estimate
from ldm.guidance.base import Guidance, NestedGuidance
from ldm.guidance.bayes import bayes
from ldm.guidance.context import GuidanceContext
from ldm.sampler.trajectory import Denoise


class Score(Protocol):
    """A score of images, which guidance makes higher."""

    def log_likelihood(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return log p(y | image) up to a constant, for what is wanted, y; differentiable.

        Args:
            image: Images, `(B, 3, H, W)`, about in [-1, 1].
            prompts: The prompt of each, `(B,)`.

        Returns:
            The log-likelihoods, `(B,)`.
        """


class LossGuidance(NestedGuidance):
    """Guidance by a score of the decoded image: the estimate moves towards images of a higher score, by Bayes' rule.

    The guided estimate is clean + scale * sigma_t^2 / alpha_t * grad log p(y | image), as in `Classified`. The gradient
    with respect to x_t goes through the decoder and the denoiser. No part of the model is trained for it.

    Args:
        score: The score of images.
        scale: Guidance scale; 1 would be Bayes' rule if the clean estimate were exact.
        guidance: The guidance on top of which it works; None: `NoGuidance`.

    References:
        Rombach et al., 2022, appendix C, eq. 14 to 16, arXiv:2112.10752; Dhariwal & Nichol, 2021, eq. 14,
        arXiv:2105.05233.
    """

    def __init__(self, score: Score, *, scale: float = 1.0, guidance: Guidance | None = None) -> None:
        super().__init__(scale, guidance)
        self.score = score

    def wrap(self, given: GuidanceContext) -> Denoise:
        """Return the guided denoiser for one batch; see `Guidance.wrap`."""
        inner = self.guidance.wrap(given)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            """Return the guided estimate."""
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_()
                estimate = inner(x_t, t)
                image = given.autoencoder.image(estimate.clean)
                fit = given.log_likelihood(partial(self._fit, image))
                (pull,) = torch.autograd.grad(fit.sum(), x_t)
            clean = estimate.clean.detach() + self.scale * bayes(pull, t, given)
            return Estimate(clean, None if estimate.variance is None else estimate.variance.detach())

        return denoise

    def _fit(self, image: Tensor, fields: Fields) -> Tensor:
        return self.score.log_likelihood(image, list_field(fields, "caption"))
