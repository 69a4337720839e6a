"""A model of ours as exporters see it: its parts, checked for what no other program's format holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ldm.config import build_trusted, class_name
from ldm.diffusion.schedule import DiscreteSchedule, ZeroTerminalSchedule
from ldm.interop.autoencoder.folding import fold
from ldm.interop.conditioner.beside import MapBeside, text_and_map
from ldm.interop.conventions import betas_of
from ldm.optim.lora import ADAPTER_KEY

Value = TypeVar("Value")

BACKBONE = "denoiser.backbone."
"""The beginning of the names of the U-Net's tensors in a model."""

CUSTOMARY_SCALE = 0.18215
"""The scale that programs take for granted in autoencoders of Stable Diffusion's kind."""

PREDICTIONS: Mapping[str, tuple[str, str]] = {
    "NoisePrediction": ("epsilon", "eps"),
    "VelocityPrediction": ("v_prediction", "v"),
    "CleanPrediction": ("sample", "x0"),
}
"""Our predictions -> their names in diffusers and in CompVis' yaml."""


SCHEDULES = ("ScaledLinearSchedule", "LinearSchedule", "CosineSchedule")
"""Our schedules of discrete betas, for messages."""

RETRAIN = (
    "train the model with one of these to export it as a whole; its LoRA alone is written in any case (format=lora)"
)
"""The way out for a model that other programs cannot run."""


@dataclass(frozen=True)
class ExportedAutoencoder:
    """An autoencoder whose shift is 0, and whose scale is one number.

    Attributes:
        options: Its config node.
        weights: Its state dict.
        scale: The number that raw latents are multiplied with.
    """

    options: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    scale: float

    @property
    def factor(self) -> int:
        """Height and width of an image, divided by those of its latent."""
        factor: int = 2 ** (len(self.options["channel_mult"]) - 1)
        return factor

    @property
    def is_quantised(self) -> bool:
        """True where it has a codebook."""
        return "codes" in self.options["regularizer"]


@dataclass(frozen=True)
class ExportedModel:
    """A latent diffusion model.

    Attributes:
        name: The name that the user gave.
        node: Its config node, without an adapter, which is merged into the weights.
        autoencoder: Its autoencoder.
        backbone: The config node of the U-Net.
        unet: The state dict of the U-Net; what it takes `beside` is in the order of other programs.
        conditioner: The config node of the conditioner; that of the text alone, where there is a map beside it.
        conditioner_weights: The state dict of the conditioner.
        beside: Its further input, beside the noisy latent and the text; None: none, or one that other programs do not know.
        prediction: Name of the prediction's class.
        betas: The betas of the noise schedule.
        start: The first beta of a schedule that is linear in their square roots; None: it is another schedule.
        end: The last beta of such a schedule.
        zero_terminal: Whether nothing is left of the image at the end of the schedule.
        size: Height and width of the images of training.
        guidance: The scale of classifier-free guidance that the model is sampled with by default; None: it has no guidance.
    """

    name: str
    node: Mapping[str, Any]
    autoencoder: ExportedAutoencoder
    backbone: Mapping[str, Any]
    unet: Mapping[str, Tensor]
    conditioner: Mapping[str, Any]
    conditioner_weights: Mapping[str, Tensor]
    beside: MapBeside | None
    prediction: str
    betas: list[float]
    start: float | None
    end: float | None
    zero_terminal: bool
    size: int
    guidance: float | None

    @property
    def linear(self) -> bool:
        """See `has_linear_projections`."""
        return has_linear_projections(self.backbone)

    @property
    def conditioned_by(self) -> str:
        """Name of the conditioner's class."""
        return class_name(self.conditioner)


def unet_node(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config node of a model's U-Net.

    Args:
        node: The config node of the model.

    Raises:
        ValueError: If the model has another backbone.
    """
    backbone: Mapping[str, Any] = node["denoiser"]["backbone"]
    if class_name(backbone) != "UNet":
        raise ValueError(f"a {class_name(backbone)} has no counterpart in other programs; a UNet has")
    return backbone


def has_linear_projections(backbone: Mapping[str, Any]) -> bool:
    """Return whether the projections around transformer blocks are written as linear layers, as in Stable Diffusion 2.

    Args:
        backbone: The config node of the U-Net.
    """
    return bool(backbone.get("head_channels") == 64)


def autoencoder_of(node: Mapping[str, Any], weights: Mapping[str, Tensor]) -> ExportedAutoencoder:
    """Return an autoencoder for export, with shift and scale folded into its weights where that is needed.

    Args:
        node: Its config node.
        weights: Its state dict.

    Raises:
        ValueError: If no other format holds such an autoencoder.
    """
    kind = class_name(node)
    if kind != "ConvAutoencoder":
        raise ValueError(f"a {kind} has no counterpart in other programs; a ConvAutoencoder has (KL or VQ)")
    scale = weights["scale"]
    if not weights["shift"].any() and (scale == scale[0]).all():
        return ExportedAutoencoder(node, weights, float(scale[0]))
    keep = 1.0 if "codes" in node["regularizer"] else CUSTOMARY_SCALE
    return ExportedAutoencoder(node, fold(weights, node, keep=keep), keep)


def model_of(node: Mapping[str, Any], weights: Mapping[str, Tensor], name: str) -> ExportedModel:
    """Return a model for export.

    Args:
        node: Its config node.
        weights: Its state dict.
        name: The name that the user gave.

    Raises:
        ValueError: If it has something that no other program's format holds; the error names it.
    """
    backbone, denoiser = unet_node(node), node["denoiser"]
    if denoiser.get("learned_variance"):
        raise ValueError(
            "model.denoiser.learned_variance=true has no place in other programs' formats; train with "
            "model.denoiser.learned_variance=false, or export the LoRA alone, if there is one (format=lora)"
        )
    prediction = class_name(denoiser["prediction"])
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"{_chosen('prediction', prediction)} has no place in this format, whose programs know "
            f"{_chosen('prediction', *PREDICTIONS)}; {RETRAIN}"
        )
    schedule = build_trusted(denoiser["schedule"])
    zero_terminal = isinstance(schedule, ZeroTerminalSchedule)
    inner = denoiser["schedule"]["schedule"] if zero_terminal else denoiser["schedule"]
    discrete = build_trusted(inner)
    if not isinstance(discrete, DiscreteSchedule):
        raise ValueError(
            f"{_chosen('schedule', class_name(inner))} has no place in this format, whose programs know discrete betas, here "
            f"{_chosen('schedule', *SCHEDULES)}, also inside of schedule=zero_terminal; {RETRAIN}"
        )
    linear = class_name(inner) == "ScaledLinearSchedule"
    size = node["size"]
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(set(sides)) > 1:
        raise ValueError(f"images of {sides} pixels: other programs' formats hold one number for squares")
    if ADAPTER_KEY in node:
        weights = build_trusted(node[ADAPTER_KEY]).merge(weights)
    autoencoder = autoencoder_of(node["autoencoder"], inside(weights, "autoencoder."))
    unet = inside(weights, BACKBONE)
    conditioner, prefix, beside = node["conditioner"], "conditioner.", None
    if (found := text_and_map(conditioner)) is not None:
        part, beside = found
        unet = beside.to_theirs(unet, autoencoder.options["latent_channels"])
        conditioner, prefix = conditioner["parts"][part], f"conditioner.parts.{part}."
    guidance = node["guidance"] if class_name(node["guidance"]) == "ClassifierFreeGuidance" else {}
    return ExportedModel(
        name=name,
        node={key: value for key, value in node.items() if key != ADAPTER_KEY},
        autoencoder=autoencoder,
        backbone=backbone,
        unet=unet,
        conditioner=conditioner,
        conditioner_weights=inside(weights, prefix),
        beside=beside,
        prediction=prediction,
        betas=betas_of(discrete).tolist(),
        start=float(inner.get("start", 0.0015)) if linear else None,
        end=float(inner.get("end", 0.0195)) if linear else None,
        zero_terminal=zero_terminal,
        size=sides[0],
        guidance=guidance.get("scale"),
    )


def _chosen(option: str, *kinds: str) -> str:
    """Return the option that chooses each of some classes, like `prediction=flow` for FlowPrediction."""
    stems = [kind.removesuffix(option.capitalize()) for kind in kinds]
    return ", ".join(f"{option}={re.sub('(?<=[a-z])(?=[A-Z])', '_', stem).lower()}" for stem in stems)


def inside(named: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Return the entries whose names begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
