"""What guidance is given of a batch, and the other end of an interpolation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.diffusion.denoiser import Denoiser
from ldm.options import FRACTION, check
from ldm.sampler.noise import as_seeds
from ldm.text import clean_prompts

Conditioner = Callable[[Fields], Condition]
"""Fields of B images -> what a backbone is told."""


class Latents(Protocol):
    """What an autoencoder is to guidance."""

    def image(self, latent: Tensor) -> Tensor:
        """Latents `(B, C, h, w)` -> images `(B, 3, H, W)`, differentiable."""

    def same_latents(self, other: Any) -> bool:
        """Whether another one gives the same latents."""


class Toward(NamedTuple):
    """The other end of an interpolation: image i is made a share, in [0, 1], of the way to prompts[i] and seeds[i]."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    shares: Sequence[float]

    def each(self, count: int) -> Toward:
        """Return this end with a clean prompt, a seed and a share for each of `count` images.

        Raises:
            ValueError: Where there are more or fewer of them, or one is none.
        """
        prompts, shares = clean_prompts(self.prompts), [float(share) for share in self.shares]
        if not len(prompts) == len(shares) == count:
            raise ValueError(
                f"the other end of an interpolation has a prompt, a seed and a share for each of {count} images; got "
                f"{len(prompts)} prompts and {len(shares)} shares"
            )
        for share in shares:
            check("shares", share, FRACTION)
        return Toward(prompts, as_seeds(self.seeds, count), shares)

    def rows(self, chunk: slice) -> Toward:
        """Those of some images."""
        return Toward(self.prompts[chunk], self.seeds[chunk], self.shares[chunk])


class Given(NamedTuple):
    """What guidance may use. Conditions and prompts are of the whole batch.

    denoiser       `(x_t, t, condition)` -> Estimate
    condition      what is wanted
    unconditional  nothing, or what is not wanted: the negative prompt
    prompts        texts of `condition`
    autoencoder    to whose latents all of this belongs
    toward         where what is wanted lies on the way to other prompts; None: it does not
    """

    denoiser: Denoiser
    condition: Condition
    unconditional: Condition
    prompts: Sequence[str]
    autoencoder: Latents
    toward: Toward | None = None

    def log_likelihood(self, of: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """What `of` says of the prompts, `(B,)`; between two prompts, mixed as the conditions are."""
        here = of(self.prompts)
        if self.toward is None:
            return here
        return torch.lerp(here, of(self.toward.prompts), here.new_tensor(self.toward.shares))


def read(conditioner: Conditioner, fields: Fields, toward: Toward | None) -> Condition:
    """Return the condition of fields, or of places on the way to other captions."""
    condition = conditioner(fields)
    if toward is None:
        return condition
    other = conditioner({**fields, "caption": list(toward.prompts)})
    (device, *_) = (part.device for part in other if part is not None)
    return condition.lerp(other, torch.tensor(toward.shares, device=device))
