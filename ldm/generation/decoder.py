"""Decoders that were fine-tuned alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ldm.autoencoder.base import Autoencoder
from ldm.checkpoint import load_autoencoder

NEAR = 0.01
"""The largest difference of latents, as a share of their deviation; half precision changes the quickstart's by 0.0003."""

PROBE = 16
"""Height and width, in pixels of the latents, of the image by which two encoders are compared."""


def with_decoder(own: Autoencoder, path: str | Path, *, packages: Sequence[str] = ("ldm",)) -> Autoencoder:
    """Load an autoencoder whose decoder takes the place of a model's own decoder.

    The other autoencoder must give the same latents. Its encoder may be the same, bit by bit; the latent statistics are then
    those of the model's own autoencoder. Or it is the same in another form, in half precision or with shift and scale folded into
    its layers, as in files of other programs; the latents of an image are then compared.

    Args:
        own: The autoencoder of the model.
        path: The checkpoint of the other autoencoder.
        packages: Packages whose classes the file may name.

    Returns:
        The other autoencoder, on the device of `own`, in evaluation mode, without gradients of its weights.

    Raises:
        ValueError: If the latents differ.
    """
    other, _ = load_autoencoder(path, packages=packages)
    other = other.to(own.shift.device).eval().requires_grad_(False)
    if other.encoder_hash == own.encoder_hash:
        other.shift.copy_(own.shift)
        other.scale.copy_(own.scale)
    elif not _gives_same_latents(own, other):
        raise ValueError(
            f"the decoder in {path} belongs to the encoder {other.encoder_hash}, but the model was trained with "
            f"{own.encoder_hash}; give one that was fine-tuned with that encoder: python train.py "
            "experiment=finetune_decoder autoencoder.ckpt=..."
        )
    return other


def _gives_same_latents(own: Autoencoder, other: Autoencoder) -> bool:
    """Return whether two autoencoders give the same mean latents, but for rounding, for an image of noise."""
    if own.downsampling_factor != other.downsampling_factor or own.latent_channels != other.latent_channels:
        return False
    side = PROBE * own.downsampling_factor
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        first, second = (one.to_latent(one.encode(image.to(one.shift.device)).mean) for one in (own, other))
    return bool((first - second).square().mean().sqrt() <= NEAR * first.std())
