"""Autoencoders as people share them: alone or inside a checkpoint, in the layout of CompVis or of diffusers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.interop.autoencoder import compvis, diffusers
from ldm.interop.autoencoder.network import check_scale, default_scale, node_of, statistics
from ldm.interop.autoencoder.shapes import options_by_shapes
from ldm.interop.part import Part
from ldm.interop.translation import listed

log = logging.getLogger(__name__)

PREFIX = "first_stage_model."
"""Beginning of the names of the autoencoder in a checkpoint of CompVis."""

NEIGHBOURS = {"quant_conv": ("encoder.conv_out.weight", 0), "post_quant_conv": ("decoder.conv_in.weight", 1)}
"""Layer that newer autoencoders leave out -> the weight beside it, and the axis of it that is as long as the layer is wide."""


def read(tensors: Mapping[str, Any], *, config: Mapping[str, Any] | None = None, scale: float | None = None) -> Part:
    """Return the autoencoder of a file.

    Where the names begin with "first_stage_model.", other tensors are somebody else's; else all must belong to it.

    Args:
        tensors: Tensors by name, or a dict that has them as `state_dict`; other values are not looked at.
        config: The config.json of diffusers that lies beside the tensors; None: there is none.
        scale: The number that raw latents are multiplied with; None: that of the config, or of `scale_factor` among the tensors
            of a checkpoint, or the customary one, see `default_scale`.

    Raises:
        ValueError: If it is no autoencoder of ours; if tensors are missing, left over or misshaped; if no scale is known.
    """
    inner = tensors.get("state_dict")
    held = inner if isinstance(inner, Mapping) else tensors
    named: dict[str, Tensor] = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    prefixed = {name.removeprefix(PREFIX) for name in named if name.startswith(PREFIX)}
    if compvis.is_autoencoder(prefixed or named):
        if config is not None:
            raise ValueError(
                "config= is for the layout of diffusers, and this autoencoder has that of CompVis; leave it out"
            )
        return _read_compvis(named, PREFIX if prefixed else "", scale)
    if not prefixed and diffusers.is_autoencoder(named):
        return _read_diffusers(named, config, scale)
    names = listed(sorted(named)) or "none"
    raise ValueError(
        f'no autoencoder found; tried the layout of CompVis, with and without "{PREFIX}", and that of diffusers; names of '
        f"tensors: {names}"
    )


def is_autoencoder(names: Collection[str]) -> bool:
    """Return whether tensors are those of an autoencoder in one of the layouts, with the prefix of a checkpoint or without."""
    plain = {name.removeprefix(PREFIX) for name in names}
    return compvis.is_autoencoder(plain) or diffusers.is_autoencoder(names)


def _read_compvis(named: Mapping[str, Tensor], prefix: str, scale: float | None) -> Part:
    own = {name.removeprefix(prefix): tensor for name, tensor in named.items() if name.startswith(prefix)}
    options = compvis.options({name: tensor.shape for name, tensor in own.items()})
    dropped = {prefix + name: why for name, why in compvis.dropped(own).items()}
    reading = compvis.translation(options).read(named, prefix=prefix)
    _check_all(named, reading.used | set(dropped), "CompVis", prefix)
    used = reading.used
    if scale is None and prefix and "scale_factor" in named:
        scale, used = float(named["scale_factor"]), used | {"scale_factor"}
    factor = check_scale(default_scale(options) if scale is None else scale)
    weights = reading.weights | statistics(options["latent_channels"], factor)
    return Part(node_of(options), weights, used, dropped)


def _read_diffusers(named: Mapping[str, Tensor], config: Mapping[str, Any] | None, scale: float | None) -> Part:
    today = diffusers.renamed(named)
    present = {name.rpartition(".")[0] for name in today}
    absent = (
        [layer for layer in NEIGHBOURS if layer not in present] if config is None else diffusers.layers_left_out(config)
    )
    if both := [layer for layer in absent if layer in present]:
        raise ValueError(f"use_{both[0]}=False of the config of diffusers, but {both[0]} is among the tensors")
    today |= _identities(today, absent)
    if config is None:
        options = options_by_shapes(diffusers.NAMES, {name: tensor.shape for name, tensor in today.items()})
        factor = check_scale(default_scale(options) if scale is None else scale)
        buffers = statistics(options["latent_channels"], factor)
    else:
        options = diffusers.options(config)
        buffers = diffusers.latent_statistics(config, scale=scale)
    reading = diffusers.translation(options).read(today)
    _check_all(today, reading.used, "diffusers")
    return Part(node_of(options), reading.weights | buffers, set(named))


def _identities(named: Mapping[str, Tensor], layers: list[str]) -> dict[str, Tensor]:
    """Return weights of layers that an autoencoder does without: the identity, which computes the same. This is logged."""
    made: dict[str, Tensor] = {}
    for layer in layers:
        name, axis = NEIGHBOURS[layer]
        if name in named:
            width, dtype = named[name].shape[axis], named[name].dtype
            made[f"{layer}.weight"] = torch.eye(width, dtype=dtype)[:, :, None, None]
            made[f"{layer}.bias"] = torch.zeros(width, dtype=dtype)
            log.info("the autoencoder has no %s; ours has the identity in its place", layer)
    return made


def _check_all(named: Mapping[str, Tensor], known: set[str], layout: str, prefix: str = "") -> None:
    """Check that nothing is left over.

    Raises:
        ValueError: If a tensor with this prefix is not known.
    """
    left = sorted(name for name in named if name.startswith(prefix) and name not in known)
    if left:
        raise ValueError(f"left over, and of no part of this autoencoder in the layout of {layout}: {listed(left)}")
