"""Conventions of a model that its tensors do not tell: heads, betas, prediction, size, and how it is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ldm.config import CONFIGS, build, compose, resolved
from ldm.diffusion.schedule import DiscreteSchedule

EXPERIMENTS: Mapping[str, Sequence[str]] = {
    "clip": ("stable_diffusion_1",),
    "open_clip": ("stable_diffusion_2",),
    "bert": ("txt2img_1p4b", "text2img256"),
    "layout": ("layout2img_openimages",),
    "label": ("cin256_v2", "cin256"),
    "segmentation": ("semantic_synthesis256",),
    "none": ("celeba256", "lsun_churches256", "bsr_sr", "inpainting_big"),
}
"""The experiments whose models published checkpoints hold, by what conditions them; the first one gives what is not known."""

HEADS = ("heads", "head_channels")
"""Options of the U-Net that shapes do not tell."""

OPTIONS = (
    "model_channels",
    "channel_mult",
    "blocks",
    "attention_levels",
    "context_width",
    "depth",
    "scale_shift",
    "residual_resampling",
)
"""Options of the U-Net by which an experiment is known again, with or without maps beside the latent."""

DEFAULTS: Mapping[str, Any] = {
    "context_width": None,
    "depth": 1,
    "scale_shift": False,
    "residual_resampling": False,
}
"""The values of options that a config leaves out."""


@dataclass(frozen=True)
class Conventions:
    """Conventions of a model, as the config of another program or the user says them; None: it is not said.

    Attributes:
        heads: Options `heads` or `head_channels` of the U-Net.
        schedule: The node of the noise schedule.
        prediction: The node of the prediction.
        size: Height and width of the images it was trained on, in pixels.
        scale: The number that latents are multiplied with.
    """

    heads: Mapping[str, int] | None = None
    schedule: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None
    size: int | None = None
    scale: float | None = None

    def over(self, other: Conventions) -> Conventions:
        """Return these conventions, with those of `other` for what is not said here."""
        return Conventions(
            heads=self.heads or other.heads,
            schedule=self.schedule or other.schedule,
            prediction=self.prediction or other.prediction,
            size=self.size or other.size,
            scale=self.scale if self.scale is not None else other.scale,
        )


def model_node(
    kind: str, backbone: Mapping[str, Any], conventions: Conventions, *, experiment: str | None = None
) -> tuple[dict[str, Any], str]:
    """Return the config node of a model, in which autoencoder and conditioner are still those of an experiment.

    Args:
        kind: The kind of its condition, a key of `EXPERIMENTS`.
        backbone: Options of the U-Net, without heads where they are not known.
        conventions: The conventions that are said beside the tensors.
        experiment: Name of an experiment whose conventions hold; None: the one that has this U-Net.

    Returns:
        The node, and the name of the experiment that its conventions are of.

    Raises:
        ValueError: If something is not known.
    """
    if experiment is not None:
        known = sorted(file.stem for file in (CONFIGS / "experiment").glob("*.yaml"))
        if experiment not in known:
            raise ValueError(f"as={experiment} is no experiment; choose one of {', '.join(known)}")
        name, node = experiment, _node(experiment)
        found = _is_of(backbone, node)
    else:
        name, node, found = _recognised(kind, backbone)
    own = node["denoiser"]["backbone"]
    heads = conventions.heads or {key: backbone[key] for key in HEADS if backbone.get(key)}
    if not heads and found:
        heads = {key: own[key] for key in HEADS if own.get(key)}
    if not heads:
        raise ValueError(
            "tensors do not tell how many heads the attention has, and no known model has this U-Net: "
            f"{ {key: backbone.get(key, DEFAULTS.get(key)) for key in OPTIONS} }; lay the model's yaml beside the file, with the "
            "same name, or give heads=N or head_channels=N"
        )
    if (
        conventions.prediction is None
        and experiment is None
        and kind == "open_clip"
        and not backbone.get("concat_channels")
    ):
        raise ValueError(
            "tensors do not tell what the network of a Stable Diffusion 2 predicts; give prediction=velocity (the one of 768 "
            "pixels) or prediction=noise (base, of 512 pixels), or lay its yaml beside the file, with the same name"
        )
    kept = {key: value for key, value in backbone.items() if key not in HEADS}
    node["denoiser"]["backbone"] = {"_target_": own["_target_"], **kept, **heads}
    if conventions.schedule is not None:
        node["denoiser"]["schedule"] = dict(conventions.schedule)
    if conventions.prediction is not None:
        node["denoiser"]["prediction"] = dict(conventions.prediction)
    if conventions.size is not None:
        node["size"] = conventions.size
    elif conventions.prediction == prediction_node("velocity") and kind == "open_clip":
        node["size"] = 768
    return node, name


def _recognised(kind: str, backbone: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
    """Return name and node of the experiment that has a U-Net, or of the first of its kind, and whether it has it."""
    known = ((name, _node(name)) for name in EXPERIMENTS[kind])  # composed one after the other, until it is found
    first = next(known)
    for name, node in chain([first], known):
        if _is_of(backbone, node):
            return name, node, True
    return *first, False


def _node(experiment: str) -> dict[str, Any]:
    """Return the node of the model of an experiment."""
    node: dict[str, Any] = resolved(compose("train", [f"experiment={experiment}"]).model)
    return node


def _is_of(backbone: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Return whether a U-Net is that of an experiment, but for its heads."""
    own = node["denoiser"]["backbone"]

    def value(options: Mapping[str, Any], key: str) -> Any:
        given = options.get(key)
        found = DEFAULTS.get(key) if given is None else given
        return list(found) if isinstance(found, Sequence) else found

    return all(value(backbone, key) == value(own, key) for key in OPTIONS)


def prediction_node(name: str) -> dict[str, Any]:
    """Return the node of a prediction.

    Args:
        name: noise, velocity, clean or flow.

    Raises:
        ValueError: If there is none of this name.
    """
    known = {"noise": "Noise", "velocity": "Velocity", "clean": "Clean", "flow": "Flow"}
    if name not in known:
        raise ValueError(f"prediction={name} is none of {', '.join(known)}")
    return {"_target_": f"ldm.diffusion.prediction.{known[name]}Prediction"}


def schedule_node(kind: str, start: float, end: float, steps: int) -> dict[str, Any]:
    """Return the node of a schedule of discrete betas.

    Args:
        kind: scaled_linear or linear, as diffusers names them.
        start: The first beta.
        end: The last beta.
        steps: Number of discrete steps.

    Raises:
        ValueError: If there is none of this name.
    """
    known = {"scaled_linear": "ScaledLinearSchedule", "linear": "LinearSchedule"}
    if kind not in known:
        raise ValueError(f"the noise schedule {kind!r} is none of {', '.join(known)}")
    return {"_target_": f"ldm.diffusion.schedule.{known[kind]}", "start": start, "end": end, "steps": steps}


def betas_of(schedule: DiscreteSchedule) -> Tensor:
    """Return the betas of a schedule, `(T,)`, float64."""
    products = schedule.table.sigmoid()
    return 1 - products / torch.cat([products.new_ones(1), products[:-1]])


def schedule_of_betas(betas: Sequence[float]) -> dict[str, Any]:
    """Return the node of the schedule that has these betas.

    Args:
        betas: All of them, as `trained_betas` of diffusers' schedulers.

    Raises:
        ValueError: If no schedule has them.
    """
    given = torch.tensor(betas, dtype=torch.float64)
    start, end, steps = round(betas[0], 7), round(betas[-1], 7), len(betas)
    cosine = {"_target_": "ldm.diffusion.schedule.CosineSchedule", "steps": steps}
    for node in (*(schedule_node(kind, start, end, steps) for kind in ("scaled_linear", "linear")), cosine):
        if torch.allclose(betas_of(build(node)), given, atol=1e-6, rtol=1e-4):
            return node
    raise ValueError(
        f"the {steps} betas from {start:g} to {end:g} are those of no schedule here; known are scaled_linear, linear, and cosine "
        "with its own offset"
    )
