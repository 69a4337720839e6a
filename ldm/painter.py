"""What makes the images of orders: a whole model, or its autoencoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.model import LatentDiffusion, Source
from ldm.orders import Order, read_image, read_masked
from ldm.picture import first_not_finite
from ldm.sampler.base import Sampler
from ldm.sampler.given import Toward
from ldm.sampler.guidance import Guidance


class Change(NamedTuple):
    """What is done to images that orders begin with; see Source. `mask` is a file, `init_prompt` says what they show."""

    strength: float = 1.0
    mask: str | None = None
    border: int = 4
    visits: int = 1
    init_prompt: str | None = None


class Painter:
    """Makes the images of orders by a model.

    negative  what guidance leads away from
    side      of the images; None: as in training
    change    of images to begin with
    """

    def __init__(
        self,
        model: LatentDiffusion,
        *,
        sampler: Sampler,
        guidance: Guidance,
        negative: str = "",
        side: int | None = None,
        change: Change | None = None,
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.guidance = guidance
        self.negative = negative
        self.side = side or model.side
        self.change = change or Change()
        model.check_side(self.side)

    def __call__(self, wanted: Sequence[Order]) -> Tensor:
        """Images `(N, 3, side, side)` in [-1, 1]."""
        return self.model.sample(
            [order.prompt or "" for order in wanted],
            seeds=[order.seed or 0 for order in wanted],
            negative=[self.negative if order.negative is None else order.negative for order in wanted],
            toward=_toward(wanted),
            source=self._source(wanted),
            sampler=self.sampler,
            guidance=self.guidance,
            side=self.side,
            batch_size=len(wanted),
        )

    def check_masks(self, inits: Sequence[str]) -> None:
        """Raise ValueError where, of an image cut to the side, all is masked or nothing."""
        if self.change.mask is not None:
            for file in inits:
                read_masked(file, self.change.mask, self.side)

    def _source(self, wanted: Sequence[Order]) -> Source | None:
        files = [order.init for order in wanted if order.init is not None]
        if not files:
            return None
        strength, mask_file, border, visits, text = self.change
        if mask_file is None:
            images = {file: read_image(file, self.side) for file in set(files)}
            image = torch.stack([images[file] for file in files])
            return Source(image, strength, prompts=None if text is None else [text] * len(files))
        masked = {file: read_masked(file, mask_file, self.side) for file in set(files)}
        image, mask = (torch.stack(part) for part in zip(*(masked[file] for file in files), strict=True))
        return Source(image, strength, mask, border, visits)


def _toward(wanted: Sequence[Order]) -> Toward | None:
    ends = [order for order in wanted if order.share is not None]
    if not ends:
        return None
    return Toward(
        [order.to_prompt or "" for order in ends],
        [order.to_seed or 0 for order in ends],
        [order.share or 0.0 for order in ends],
    )


class Reconstruction:
    """Encodes and decodes the images of orders, cut to `side`, without noise."""

    def __init__(self, autoencoder: Autoencoder, *, side: int) -> None:
        self.autoencoder = autoencoder
        self.side = side
        autoencoder.check_side(side)

    @torch.no_grad()
    def __call__(self, wanted: Sequence[Order]) -> Tensor:
        """Images `(N, 3, side, side)` in [-1, 1]."""
        images = torch.stack([read_image(str(order.init), self.side) for order in wanted])
        posterior = self.autoencoder.encode(images.to(self.autoencoder.shift.device))
        made = self.autoencoder.decode(posterior.mean).float()
        if (index := first_not_finite(made)) is not None:
            raise ValueError(
                f"the reconstruction of {wanted[index].init} is not finite (it holds NaN or infinity), so nothing is written "
                "for it; the weights of the autoencoder are damaged, or its training has diverged: give another ckpt"
            )
        return made.clamp(-1, 1).cpu()
