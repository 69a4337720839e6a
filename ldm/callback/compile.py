"""torch.compile of the networks that a stage computes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator

import pytorch_lightning as pl
import torch._functorch.config
from torch import nn

from ldm.autoencoder.discriminator import PatchDiscriminator
from ldm.autoencoder.networks import Decoder, Encoder
from ldm.backbone.base import Backbone
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.nn.walk import outermost
from ldm.options.rule import OneOf, Optional, check
from ldm.pretrained.lpips import LPIPSNetwork

log = logging.getLogger(__name__)

NETWORKS = (Backbone, Decoder, Encoder, EncoderUNet, LPIPSNetwork, PatchDiscriminator)
"""Classes of networks that are compiled, in addition to those of transformers."""

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes of torch.compile."""

COMPILERS = ("g++", "c++", "clang++", "clang")
"""Names of compilers of C++."""


class Compile(pl.Callback):
    """Compiles the networks of a stage by torch.compile: the first steps take minutes, for later ones to be faster.

    Each network is compiled as a whole, with the autoencoder that is frozen and text and vision encoders. Names of weights
    stay as they are, so that checkpoints of compiled and other runs are alike. Numbers differ by rounding.

    Args:
        mode: The mode of torch.compile: "default"; "reduce-overhead" and "max-autotune", which use CUDA graphs;
            "max-autotune-no-cudagraphs". None: nothing is compiled.
        backend: The backend of torch.compile. Others than "inductor" have no modes, and are for debugging.

    Raises:
        ValueError: If there is no such mode, or no compiler of C++.
    """

    def __init__(self, mode: str | None, *, backend: str = "inductor") -> None:
        check("compile", mode, Optional(OneOf(MODES), "nothing is compiled"))
        if mode is not None and backend == "inductor" and not _has_compiler():
            raise ValueError(
                f"compile={mode} needs a compiler of C++, and this machine has none of {', '.join(COMPILERS)} (or CXX in the "
                "environment); install one (apt install g++), or set compile=null"
            )
        self.mode = mode
        self.backend = backend
        self._is_done = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Mark the networks once; each is compiled when it is first called."""
        if self.mode is None or self._is_done:
            return
        self._is_done = True
        # The adaptive weight of the adversarial loss goes back through a decoder twice.
        torch._functorch.config.donated_buffer = False
        found = list(networks_of(pl_module))
        for network in found:
            network.compile(backend=self.backend, **({"mode": self.mode} if self.backend == "inductor" else {}))
        if trainer.is_global_zero:
            names = ", ".join(dict.fromkeys(type(network).__name__ for network in found))
            log.info(f"compiles {names or 'nothing'} ({self.mode}); the first steps take long")


def networks_of(module: nn.Module) -> Iterator[nn.Module]:
    """Return the networks that a module consists of; what is part of another network is none."""
    return outermost(
        module, lambda part: isinstance(part, NETWORKS) or type(part).__module__.startswith("transformers.")
    )


def _has_compiler() -> bool:
    """Return whether a compiler of C++ is there."""
    return "CXX" in os.environ or any(shutil.which(name) for name in COMPILERS)
