"""Maps beside the noisy latent of models that read text, as Stable Diffusion's for inpainting and for depth have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ldm.config import build, class_name
from ldm.interop.part import Part

COMPOSITE = "ldm.conditioner.composite.Composite"
"""The class of a conditioner of text and a map."""

TEXT_PART = "text"
"""Name of the text's conditioner among the parts of such a conditioner."""

TEXTS = ("clip", "open_clip", "bert")
"""Keys in `conventions.EXPERIMENTS` of models that are conditioned on text."""

TEXT_CLASSES = ("HuggingFaceConditioner", "TransformerConditioner")
"""Names of the conditioners that read text."""

ABSENT = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of Stable Diffusion's pipelines that no model here has."""

DEPTH_NETWORK = "the network that estimates depth; depth maps are given here"
"""The reason why that network is left out."""

FIRST_LAYER = "conv_in.weight"
"""The tensor of a U-Net that reads the channels of its input, in the order in which they stand."""


@dataclass(frozen=True)
class MapBeside:
    """A map that a U-Net takes beside the noisy latent, and how other programs give it.

    Attributes:
        name: Name of its conditioner among the parts of a conditioner of text and a map.
        target: The class of that conditioner.
        with_latent: Whether the latent of an image belongs to it, beside its one map.
        pipeline: Name of the pipeline of diffusers.
        absent: Components of that pipeline that no model here has.
        compvis: Name of the class of CompVis' programs.
        keys: Their names of its parts, in the order of their channels.
        params: Further entries of their yaml.
    """

    name: str
    target: str
    with_latent: bool
    pipeline: str
    absent: tuple[str, ...]
    compvis: str
    keys: list[str]
    params: Mapping[str, Any] = field(default_factory=dict)

    def channels(self, latent: int) -> int:
        """Return the number of its channels, where latents have `latent` of them."""
        return 1 + (latent if self.with_latent else 0)

    def with_text(self, text: Part, latent: int) -> Part:
        """Return the conditioner of a text and this map.

        Args:
            text: The conditioner of the text.
            latent: Channels of a latent.
        """
        channels = self.channels(latent)
        own = {"_target_": self.target, "concat_channels": channels, "drop_rate": 0.0}
        node = {
            "_target_": COMPOSITE,
            "parts": {TEXT_PART: text.node, self.name: own},
            "width": text.node["width"],
            "concat_channels": channels,
        }
        states = {TEXT_PART: text.weights, self.name: build(own).state_dict()}
        weights = {f"parts.{part}.{name}": value for part, state in states.items() for name, value in state.items()}
        return Part(node, weights, text.used, text.dropped)

    def to_ours(self, unet: Mapping[str, Tensor], latent: int) -> dict[str, Tensor]:
        """Return the state dict of a U-Net whose input has these channels in our order: the map is the last one.

        Args:
            unet: The same in the order of other programs, in which the map is the first one behind the noisy latent.
            latent: Channels of a latent.
        """
        return _rolled(unet, latent, -1)

    def to_theirs(self, unet: Mapping[str, Tensor], latent: int) -> dict[str, Tensor]:
        """Return the state dict of a U-Net whose input has these channels in the order of other programs; see `to_ours`."""
        return _rolled(unet, latent, 1)


def _rolled(unet: Mapping[str, Tensor], latent: int, places: int) -> dict[str, Tensor]:
    first = unet[FIRST_LAYER]
    return {**unet, FIRST_LAYER: torch.cat([first[:, :latent], first[:, latent:].roll(places, dims=1)], dim=1)}


INPAINTING = MapBeside(
    name="inpainting",
    target="ldm.conditioner.inpainting.InpaintingConditioner",
    with_latent=True,
    pipeline="StableDiffusionInpaintPipeline",
    absent=ABSENT,
    compvis="LatentInpaintDiffusion",
    keys=["mask", "masked_image"],
)
"""The mask and the latent of the masked image, by which a model fills holes."""

DEPTH = MapBeside(
    name="depth",
    target="ldm.conditioner.depth.DepthConditioner",
    with_latent=False,
    pipeline="StableDiffusionDepth2ImgPipeline",
    absent=("depth_estimator", "feature_extractor"),
    compvis="LatentDepth2ImageDiffusion",
    keys=["midas_in"],
    params={
        "depth_stage_config": {
            "target": "ldm.modules.midas.api.MiDaSInference",
            "params": {"model_type": "dpt_hybrid"},
        },
    },
)
"""The depth map."""

MAPS = (INPAINTING, DEPTH)
"""All that are known."""


def map_beside(kind: str, node: Mapping[str, Any]) -> MapBeside | None:
    """Return the further input of a model, beside the noisy latent and the text; None where there is none, or no text.

    Args:
        kind: The kind of its condition, a key of `conventions.EXPERIMENTS`.
        node: Its config node, in which the conditioner is still the one of an experiment.

    Raises:
        ValueError: If its U-Net takes a map that nothing gives.
    """
    backbone = node["denoiser"]["backbone"]
    latent, beside = backbone["in_channels"], backbone.get("concat_channels", 0)
    known = {one.channels(latent): one for one in MAPS} if kind in TEXTS else {}
    given = 0 if kind in TEXTS else node["conditioner"].get("concat_channels", 0)
    if beside not in (*known, given) and kind != "segmentation":
        choices = [str(given), *(f"{channels} ({one.name})" for channels, one in known.items())]
        raise ValueError(
            f"the U-Net takes {beside} channels beside the latent, and what conditions it gives {' or '.join(choices)}; such a "
            "model cannot be read"
        )
    return known.get(beside)


def text_and_map(node: Mapping[str, Any]) -> tuple[str, MapBeside] | None:
    """Return the name of the text's part, and the map, of a conditioner of just these two; None: it is another.

    Args:
        node: The config node of a conditioner.
    """
    parts = node.get("parts", {})
    named = dict(parts) if isinstance(parts, Mapping) else {str(place): part for place, part in enumerate(parts)}
    texts = [name for name, part in named.items() if class_name(part) in TEXT_CLASSES]
    maps = [
        one
        for one in MAPS
        for part in named.values()
        if part["_target_"] == one.target and not part.get("black_hole")  # which is of the paper's own model alone
    ]
    return (texts[0], maps[0]) if len(texts) == len(maps) == 1 and len(named) == 2 else None
