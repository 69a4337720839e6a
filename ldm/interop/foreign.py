"""Other people's models as ours: a config that builds the model, its weights, and an account of all tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ldm.interop.conditioner.beside import MapBeside
from ldm.interop.part import Part
from ldm.interop.translation import listed

CONFIG_KEY = "ldm_config"
"""The key of the config, in the metadata of our .safetensors files and in our .ckpt files."""


@dataclass(frozen=True)
class ForeignModel:
    """A model that was read from another layout.

    Attributes:
        config: The config node that builds it.
        weights: Its whole state dict.
        layout: Name of the layout it was read from.
        experiment: Name of the experiment that gives what is not in the files; None: there is none.
        dropped: Names of tensors that were left out on purpose -> why.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    layout: str
    experiment: str | None
    dropped: Mapping[str, str]


def assembled(
    node: dict[str, Any],
    *,
    autoencoder: Part,
    conditioner: Part,
    backbone: Mapping[str, Tensor],
    beside: MapBeside | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config node and state dict of a latent diffusion model that is made of these parts.

    Args:
        node: The node of the model, in which autoencoder and conditioner are replaced.
        autoencoder: The autoencoder.
        conditioner: The conditioner.
        backbone: The state dict of the U-Net.
        beside: Its input beside the noisy latent, in the order of other programs, where the conditioner reads text alone.
    """
    if beside is not None:
        latent = autoencoder.node["latent_channels"]
        conditioner, backbone = beside.with_text(conditioner, latent), beside.to_ours(backbone, latent)
    weights = {
        **{f"autoencoder.{name}": tensor for name, tensor in autoencoder.weights.items()},
        **{f"conditioner.{name}": tensor for name, tensor in conditioner.weights.items()},
        **{f"denoiser.backbone.{name}": tensor for name, tensor in backbone.items()},
    }
    return {**node, "autoencoder": autoencoder.node, "conditioner": conditioner.node}, weights


def check_all_used(names: Mapping[str, Any], used: set[str], dropped: Mapping[str, str], *, layouts: str) -> None:
    """Check that every tensor was taken, or left out on purpose.

    Args:
        names: Names of all tensors.
        used: Names of those that were taken.
        dropped: Names of those that were left out on purpose.
        layouts: Names of the layouts that were tried.

    Raises:
        ValueError: If one was neither taken nor left out on purpose.
    """
    if left := sorted(names.keys() - used - dropped.keys()):
        raise ValueError(
            f"{len(left)} tensors belong to nothing that is known here: {listed(left)}; tried was the layout of {layouts}"
        )
