"""The way from images to features, both refused where they are not finite."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.files.picture import from_levels, to_levels
from ldm.pretrained.extractor import Extractor

ADVICE = (
    "the model that makes them has diverged: go on from an earlier checkpoint, or train anew, with a lower learning rate "
    "(optimizer.lr) or a smaller trainer.gradient_clip_val; or sample with less guidance (guidance.scale)"
)
"""Advice where generated images are not finite."""


def check_finite(values: Tensor, of: str, *, advice: str) -> None:
    """Raise ValueError where numbers of a batch, `(B, ...)`, are not finite.

    Args:
        values: Images or their features.
        of: A description of them, for the message.
        advice: Advice for the message.
    """
    wrong = int((~values.flatten(1).isfinite()).any(1).sum())
    if wrong:
        raise ValueError(f"{wrong} of {len(values)} {of} hold numbers that are not finite (nan or inf); {advice}")


def rounded(images: Tensor) -> Tensor:
    """Return images `(B, 3, H, W)` in [-1, 1] as a file of 8 bits would hold them, float32."""
    return from_levels(to_levels(images.float()))


@torch.no_grad()
def extract(extractor: Extractor, images: Tensor) -> Tensor:
    """Return the features of images.

    Args:
        extractor: The network.
        images: `(B, 3, H, W)` in [-1, 1], finite.

    Returns:
        Features `(B, D)` float32.

    Raises:
        ValueError: Where features are not finite: LAPACK would end the process over them.
    """
    features: Tensor = extractor(images).float()
    check_finite(
        features,
        f"feature vectors of the images for {extractor.signature}",
        advice="the images are finite, so the extractor's weights are broken: choose another metric, or get them anew",
    )
    return features
