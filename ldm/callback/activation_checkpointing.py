"""Activation checkpointing: a training step keeps less for its backward pass, and computes it again there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ldm.backbone.unet import UNetBlock
from ldm.conditioner.transformer import EncoderLayer
from ldm.nn.attention import MapAttention
from ldm.nn.blocks import ResidualBlock
from ldm.nn.walk import outermost
from ldm.options.rule import FLAG, check

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
"""Gives the contexts in which a block is computed first, and again."""

log = logging.getLogger(__name__)

BLOCKS = (UNetBlock, ResidualBlock, MapAttention, EncoderLayer)
"""Classes of blocks of which the input is kept, and what is inside is computed again."""


class ActivationCheckpointing(pl.Callback):
    """Keeps of each block only its input for the backward pass, which computes the block's forward pass again.

    A step needs much less memory, and computes what is in the blocks a second time: up to a third more. Losses and gradients are
    the same. Blocks are those of U-Net, autoencoder and text transformer, where they are trained. Names of weights stay.

    Args:
        enabled: Whether it is done.

    Raises:
        ValueError: If `enabled` is neither true nor false.

    References:
        Chen et al., 2016, arXiv:1604.06174.
    """

    def __init__(self, enabled: bool) -> None:
        check("activation_checkpointing", enabled, FLAG)
        self.enabled = enabled
        self._is_done = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Change the blocks, once."""
        if not self.enabled or self._is_done:
            return
        self._is_done = True
        count = checkpoint_activations(pl_module)
        if trainer.is_global_zero:
            log.info(f"keeps the inputs of {count} blocks, and computes their activations again in the backward pass")


def checkpoint_activations(module: nn.Module, contexts: Contexts | None = None) -> int:
    """Let the trained blocks of a module keep only their inputs for the backward pass.

    Args:
        module: The module; its blocks get another `forward`.
        contexts: Called whenever a block is computed; gives the contexts of the first and of the second time. None: none.

    Returns:
        The number of blocks.
    """
    found = outermost(module, lambda part: isinstance(part, BLOCKS))
    blocks = [block for block in found if any(weight.requires_grad for weight in block.parameters())]
    for block in blocks:
        # Whether a block draws random numbers, which must be the same when it is computed again.
        random = any(isinstance(part, nn.Dropout) and part.p > 0 for part in block.modules())
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": random}
        if contexts is not None:
            options["context_fn"] = contexts  # where it is given at all, torch.compile cannot follow
        # A partial, not a function: a deep copy of the module then calls the copied block.
        block.forward = partial(_recomputed, block.forward, options)
    return len(blocks)


def keep_activations(module: nn.Module) -> None:
    """Undo `checkpoint_activations`."""
    for part in module.modules():
        part.__dict__.pop("forward", None)


def _recomputed(forward: Callable[..., Any], options: Mapping[str, Any], *args: Any) -> Any:
    """Return the output of a block; where gradients are needed, keep only its arguments."""
    return checkpoint(forward, *args, **options) if torch.is_grad_enabled() else forward(*args)
