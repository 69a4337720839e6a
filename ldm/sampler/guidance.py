"""Guidance: denoisers that wrap a denoiser, so that every sampler gets every kind of guidance and knows of none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ldm.batch import Condition
from ldm.diffusion.denoiser import Denoiser, Estimate
from ldm.diffusion.schedule import Schedule
from ldm.options import FRACTION, POSITIVE, Optional, Real, check
from ldm.sampler.given import Conditioner, Given, Latents, read
from ldm.sampler.path import Denoise

ROUNDING = 1e-6
"""Of times, which denoisers get as fp32."""

SCALE = Real(-1e3, 1e3)
"""What any scale can be; 1 to 10 are usual."""


class Guidance(ABC):
    """Turns a conditional denoiser into what a sampler calls."""

    @property
    def has_negative(self) -> bool:
        """Whether it leads away from the unconditional estimate."""
        return False

    @abstractmethod
    def wrap(self, given: Given) -> Denoise:
        """The guided denoiser of one batch."""


class Unguided(Guidance):
    """The conditional denoiser as it is."""

    def wrap(self, given: Given) -> Denoise:
        return lambda x_t, t: given.denoiser(x_t, t, given.condition)


class ClassifierFree(Guidance):
    """Away from the unconditional estimate, through the conditional one: u + scale * (c - u).

    scale 1 is no guidance, 0 ignores the condition. The estimates are clean latents; since these are affine in the
    predicted noise, with the same coefficients for both, this equals guiding the noise.

    interval   earliest and latest time at which it guides; at others there is no guidance, at half the cost.
               Paper: Kynkäänniemi et al., 2024, section 3, arXiv:2404.07724
    rescale    share, in [0, 1], of the way from the guided estimate to one with the standard deviation of the
               conditional one, against burnt colours. Paper: Lin et al., 2024, eq. 15 and 16, arXiv:2305.08891 (there of
               what the network says, here of clean latents, whatever it predicts)
    threshold  largest absolute value of a latent: where the 99.5th percentile of an image's is above it, all are cut
               there and scaled to it; None: not done. Paper: Saharia et al., 2022, section 2.3, arXiv:2205.11487

    Paper: Ho & Salimans, 2022, eq. 6, arXiv:2207.12598, with scale = 1 + w.
    """

    def __init__(
        self,
        scale: float = 1.5,
        *,
        interval: Sequence[float] = (0.0, 1.0),
        rescale: float = 0.0,
        threshold: float | None = None,
    ) -> None:
        check("guidance.scale", scale, SCALE)
        check("guidance.rescale", rescale, FRACTION)
        check("guidance.threshold", threshold, Optional(POSITIVE, "none"))
        times = tuple(interval) if isinstance(interval, Sequence) else ()
        if len(times) != 2 or not all(map(FRACTION.allows, times)) or times[0] > times[1]:
            raise ValueError(f"guidance.interval is two times, 0 <= low <= high <= 1; got {interval}")
        low, high = times
        self.scale = scale
        self.interval = (low, high)
        self.rescale = rescale
        self.threshold = threshold

    @property
    def has_negative(self) -> bool:
        return self.scale != 1

    def wrap(self, given: Given) -> Denoise:
        both = Condition.cat([given.condition, given.unconditional])
        low, high = self.interval

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            if not low - ROUNDING <= float(t[0]) <= high + ROUNDING:
                return given.denoiser(x_t, t, given.condition)
            if self.scale == 1:
                wanted, variance = given.denoiser(x_t, t, given.condition)
                return Estimate(self._tame(wanted, wanted), variance)
            clean, variance = given.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), both)
            wanted, free = clean.chunk(2)
            guided = self._tame(free + self.scale * (wanted - free), wanted)
            return Estimate(guided, None if variance is None else variance.chunk(2)[0])

        return denoise

    def _tame(self, guided: Tensor, wanted: Tensor) -> Tensor:
        if self.rescale:
            ratio = _deviation(wanted) / _deviation(guided)
            guided = guided * (1.0 - self.rescale + self.rescale * ratio)
        if self.threshold is not None:
            extreme = guided.flatten(1).abs().quantile(0.995, dim=1).clamp(min=self.threshold)[:, None, None, None]
            guided = guided.clamp(-extreme, extreme) * (self.threshold / extreme)
        return guided


class Over(Guidance, ABC):
    """Guidance over another guidance; `scale` says how strong.

    guidance  under it; None: none
    """

    def __init__(self, scale: float, guidance: Guidance | None) -> None:
        check("guidance.scale", scale, SCALE)
        self.scale = scale
        self.guidance = guidance or Unguided()

    @property
    def has_negative(self) -> bool:
        return self.guidance.has_negative


class Text2Image(Protocol):
    """The parts of a LatentDiffusion that guidance by it needs."""

    autoencoder: Latents
    conditioner: Conditioner
    denoiser: Denoiser

    def to(self, device: torch.device) -> object:
        """Move it."""


class Autoguidance(Over):
    """Away from a worse model of the same latents, through the better one: w + scale * (b - w).

    Unlike classifier-free guidance it does not trade variety for it.

    weak      trained less, or smaller
    scale     1 is no guidance
    guidance  of the better model; None: none

    Paper: Karras et al., 2024, eq. 3, arXiv:2406.02507.
    """

    def __init__(self, weak: Text2Image, *, scale: float = 1.5, guidance: Guidance | None = None) -> None:
        super().__init__(scale, guidance)
        self.weak = weak
        self._joined: tuple[object, ...] = ()

    def wrap(self, given: Given) -> Denoise:
        self._join(given)
        better, worse = self.guidance.wrap(given), self.weak.denoiser
        condition = read(self.weak.conditioner, {"caption": list(given.prompts)}, given.toward)

        def denoise(x_t: Tensor, t: Tensor) -> Estimate:
            good, bad = better(x_t, t), worse(x_t, t, condition)
            return good._replace(clean=bad.clean + self.scale * (good.clean - bad.clean))

        return denoise

    def _join(self, given: Given) -> None:
        """Move the weak model to the better one's device. Raises ValueError where it is of other latents or other noise."""
        if self._joined == (given.autoencoder, given.denoiser.schedule):
            return  # comparing them reads all weights, which each batch need not do again
        self.weak.to(next(given.denoiser.parameters()).device)
        if not self.weak.autoencoder.same_latents(given.autoencoder):
            raise ValueError(
                "the weak model belongs to another autoencoder, or to another shift and scale of its latents; give one that was "
                "trained with autoencoder.ckpt= that of the model, or an earlier checkpoint of its run"
            )
        if (t := given.denoiser.schedule.apart(self.weak.denoiser.schedule)) is not None:
            raise ValueError(
                f"at t = {t:.1f} the weak model was trained with another amount of noise; give one with the schedule of the model"
            )
        self._joined = (given.autoencoder, given.denoiser.schedule)


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
            return estimate._replace(clean=estimate.clean + self.scale * _bayes(pull, t, given))

        return denoise


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
            clean = estimate.clean.detach() + self.scale * _bayes(pull, t, given)
            return Estimate(clean, None if estimate.variance is None else estimate.variance.detach())

        return denoise


def _bayes(pull: Tensor, t: Tensor, given: Given) -> Tensor:
    """What a gradient of log p by x_t adds to the clean estimate; from pure noise, where nothing can be told, nothing."""
    alpha, sigma = (part[:, None, None, None] for part in given.denoiser.schedule.alpha_sigma(t))
    return torch.where(alpha > 0, sigma**2 / alpha.clamp(min=1e-6) * pull, 0.0)


def _deviation(latent: Tensor) -> Tensor:
    return latent.flatten(1).std(1)[:, None, None, None]
