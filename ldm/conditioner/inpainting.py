"""An image with a hole as a condition: inpainting by a model that was trained to do it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner, without
from ldm.conditioner.maps import latent_size
from ldm.options.rule import FLAG, Whole, check


class InpaintingConditioner(SingleConditioner):
    """The latent of the image without its masked part, and the mask, as maps beside x_t.

    The model encodes the masked image by its own autoencoder; see `ldm.autoencoder.derived`. The masked part is gray there, and
    the mask is 1 where something is to be made and 0 elsewhere, as in Stable Diffusion's inpainting models.

    Args:
        concat_channels: Channels of the maps: those of a latent, and one for the mask.
        black_hole: True: as the paper's own model, the masked part is black, and the mask is -1 where nothing is to be made.
        drop_rate: Fraction of the training images that are dropped, in [0, 1]; the latent is then zero, and all is masked.

    References:
        Rombach et al., 2022, section 4.5, arXiv:2112.10752.
    """

    def __init__(self, *, concat_channels: int, black_hole: bool = False, drop_rate: float = 0.0) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.concat_channels", concat_channels, Whole(2))
        check("conditioner.black_hole", black_hole, FLAG)
        self.concat_channels = concat_channels
        self.black_hole = black_hole
        self.masked = "black_masked_latent" if black_hole else "masked_latent"
        self.inputs = (self.masked, "mask", "latent_size")

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: nothing is learned."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of the masked latent, `(B, C, h, w)`, and `mask`, `(B, 1, H, W)`: maps `(B, C + 1, h, w)`."""
        latent, mask = self.tensor(fields, self.masked), self.tensor(fields, "mask")
        if mask.ndim != 4 or mask.shape[1] != 1:
            raise ValueError(
                f"the field mask is (B, 1, H, W), 1 where something is to be made; got {tuple(mask.shape)}"
            )
        if latent.shape[1] + 1 != self.concat_channels:
            raise ValueError(
                f"conditioner.concat_channels is {self.concat_channels}, but latents have {latent.shape[1]} channels, and the "
                f"mask has one; set conditioner.concat_channels={latent.shape[1] + 1}"
            )
        mask = F.interpolate(mask.to(latent.dtype), tuple(latent_size(fields)), mode="nearest")
        mask = 2.0 * mask - 1.0 if self.black_hole else mask
        return Condition(concat=torch.cat([without(latent, dropped), without(mask, dropped, 1.0)], dim=1))
