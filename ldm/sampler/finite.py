"""Checks that sampling gave an image; otherwise an error says what to try."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

MOST_LATENT = 1e4
"""The largest absolute value of a latent that can be an image; latents have about unit variance."""

WHAT_TO_TRY = "try a smaller guidance.scale, more sampler.steps or another sampler, or an earlier checkpoint"
"""Advice at the end of an error about a bad sample."""


def check_finite(images: Tensor, names: Sequence[str]) -> None:
    """Raise ValueError if an image has values that are not finite.

    Args:
        images: Images, `(B, 3, H, W)`.
        names: A name for each image, `(B,)`, for the error.
    """
    for image, name in zip(images, names, strict=True):
        if not image.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite, so that it cannot be shown; {WHAT_TO_TRY}")


def check_weights(model: nn.Module) -> None:
    """Raise ValueError if a model has weights that are not finite: nothing that it makes would be an image."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(
                f"the weights of the model are not finite ({name} is the first): its training has diverged, or its file is "
                "damaged; give an earlier checkpoint"
            )


def check_latents(latents: Tensor, prompts: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise ValueError if a latent is far from that of any image, which a decoder may hide.

    Args:
        latents: Latents, `(B, C, h, w)`.
        prompts: The prompt of each, `(B,)`, for the error.
        seeds: The seed of each, `(B,)`, for the error.
    """
    largest = latents.abs().flatten(1).amax(1).tolist()
    for value, prompt, seed in zip(largest, prompts, seeds, strict=True):
        if not value < MOST_LATENT:  # true for nan, too
            raise ValueError(
                f"sampling {prompt!r} with seed {seed} went astray: its latent reaches {value:.3g}, where images have about "
                f"1; {WHAT_TO_TRY}"
            )
