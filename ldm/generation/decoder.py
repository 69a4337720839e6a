"""Decoders that were fine-tuned alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ldm.autoencoder.base import Autoencoder
from ldm.checkpoint import load_autoencoder


def with_decoder(own: Autoencoder, path: str | Path, *, packages: Sequence[str] = ("ldm",)) -> Autoencoder:
    """Load an autoencoder whose decoder takes the place of a model's own decoder.

    The latent statistics are those of the model's own autoencoder.

    Args:
        own: The autoencoder of the model.
        path: The checkpoint of the other autoencoder, which must have the same encoder, and so the same latent space.
        packages: Packages whose classes the file may name.

    Returns:
        The other autoencoder, on the device of `own`, in evaluation mode, without gradients of its weights.

    Raises:
        ValueError: If the encoders differ.
    """
    other, _ = load_autoencoder(path, packages=packages)
    if other.encoder_hash != own.encoder_hash:
        raise ValueError(
            f"the decoder in {path} belongs to the encoder {other.encoder_hash}, but the model was trained with "
            f"{own.encoder_hash}; give one that was fine-tuned with that encoder: python train.py "
            "experiment=finetune_decoder autoencoder.ckpt=..."
        )
    other.shift.copy_(own.shift)
    other.scale.copy_(own.scale)
    return other.to(own.shift.device).eval().requires_grad_(False)
