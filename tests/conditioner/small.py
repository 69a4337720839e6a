"""A small conditioner of each kind, the fields that it reads, and tiny networks as the hub's lie on disk."""

from __future__ import annotations

import json

import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    DPTConfig,
    DPTForDepthEstimation,
)

from ldm.batch import whole_geometry
from ldm.conditioner.depth import DepthConditioner
from ldm.conditioner.image import ImageConditioner
from ldm.conditioner.inpainting import InpaintingConditioner
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.conditioner.neighbors import NeighborsConditioner
from ldm.conditioner.segmentation import SegmentationConditioner
from ldm.conditioner.unconditional import Unconditional

LAYOUT = {"width": 16, "depth": 1, "heads": 2, "head_width": 8, "max_boxes": 3, "vocabulary": 30}

KINDS = {
    "unconditional": lambda **rate: Unconditional(),
    "label": lambda **rate: LabelConditioner(7, width=16, **rate),
    "label_vector": lambda **rate: LabelConditioner(7, vector_width=8, **rate),
    "layout": lambda **rate: LayoutConditioner(**LAYOUT, **rate),
    "segmentation": lambda **rate: SegmentationConditioner(5, concat_channels=3, **rate),
    "low_resolution": lambda **rate: LowResolutionConditioner(2, **rate),
    "noisy_low_resolution": lambda **rate: LowResolutionConditioner(2, noise=0.4, vector_width=8, **rate),
    "inpainting": lambda **rate: InpaintingConditioner(concat_channels=4, **rate),
    "depth": lambda **rate: DepthConditioner(**rate),
    "image": lambda **rate: ImageConditioner(None, embedding_width=8, width=16, projection=True, **rate),
    "image_vector": lambda **rate: ImageConditioner(None, embedding_width=8, width=None, vector_width=8, **rate),
    "neighbors": lambda **rate: NeighborsConditioner(width=16, max_neighbors=4, **rate),
}
"""Name -> maker of a conditioner, which takes a drop rate."""

LEARNING = ("label", "label_vector", "layout", "segmentation", "image")

HAS_RATE = [name for name in KINDS if name != "unconditional"]


def fields_of(count: int, seed: int = 0):
    """Return all fields that the conditioners read, of images of 32 x 48 pixels with latents of 8 x 12."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(count, *shape, generator=generator) * 2 - 1

    corners = uniform(4, 4).abs().mul(0.5)
    corners[..., 2:] += 0.5
    classes = torch.randint(0, 29, (count, 4, 1), generator=generator).float()
    boxes = torch.cat([classes, corners], dim=-1)
    boxes[: count // 2, 2:] = -1.0
    return {
        "caption": [f"image {number}" for number in range(count)],
        "image": uniform(3, 32, 48),
        "label": torch.randint(0, 7, (count,), generator=generator),
        "boxes": boxes,
        "geometry": whole_geometry([32, 48], count),
        "segmentation": torch.randint(0, 5, (count, 32, 48), generator=generator),
        "low_resolution": uniform(3, 16, 24),
        "mask": (uniform(1, 32, 48) > 0).float(),
        "masked_latent": uniform(3, 8, 12),
        "black_masked_latent": uniform(3, 8, 12),
        "depth": uniform(1, 32, 48),
        "image_embedding": uniform(8),
        "neighbors": uniform(5, 16),
        "latent_size": torch.tensor([[8, 12]]).expand(count, -1),
        "image_size": torch.tensor([[32, 48]]).expand(count, -1),
    }


def rows(fields, chosen):
    """Return the fields of some images."""
    return {name: [value[row] for row in chosen] if isinstance(value, list) else value[list(chosen)]
            for name, value in fields.items()}  # fmt: skip


def save_depth(folder):
    """Write a depth network of few random weights, which does not give the same depth everywhere."""
    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, initializer_range=0.3,
    )  # fmt: skip
    network = DPTForDepthEstimation(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return network


VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8,
    "image_size": 24,
}  # fmt: skip


def save_vision(folder, kind):
    """Write a vision transformer of few random weights."""
    torch.manual_seed(0)
    if kind == "clip":
        network = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=8)).eval()
    else:
        network = Dinov2Model(Dinov2Config(**VISION)).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.3] * 3}))
    return network
