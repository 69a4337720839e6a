"""The depth map of an image as a condition."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner, tensor_to_text, text_to_tensor, without
from ldm.conditioner.maps import latent_size, scaled_by_range
from ldm.options.rule import OneOf, check
from ldm.pretrained.depth import DepthNetwork


class DepthConditioner(SingleConditioner):
    """The depth map as a map beside x_t, resized to the latent's resolution; for each image it goes from -1 to 1.

    It comes with the sample (`depth`), or a frozen depth network makes it of `image`. The network goes into the checkpoint, so
    that sampling needs neither hub nor folder. Where a depth map is given, the network is not asked.

    Args:
        name: Name of the depth network on the hub, or a local folder; None: depth maps come with the samples.
        size: Side in pixels to which the network's images are resized.
        concat_channels: Channels of the map, which is one.
        drop_rate: Fraction of the training images whose depth is dropped, in [0, 1]; the map is then zero.

    References:
        Stable Diffusion 2 (depth to image); Rombach et al., 2022, arXiv:2112.10752.
    """

    def __init__(
        self, name: str | None = None, *, size: int = 384, concat_channels: int = 1, drop_rate: float = 0.0
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.concat_channels", concat_channels, OneOf((1,)))
        self.concat_channels = concat_channels
        self.inputs = ("depth" if name is None else "image", "latent_size")
        self.network = None if name is None else DepthNetwork(name, size=size)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Load the depth network, if there is to be one; no samples are read."""
        if self.network is not None:
            self.network.load()

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `depth`, `(B, 1, H, W)`, or of `image`, `(B, 3, H, W)`: a map `(B, 1, h, w)`."""
        depth = self._depth(fields)
        if depth.ndim != 4 or depth.shape[1] != 1:
            raise ValueError(f"the field depth is (B, 1, H, W); got {tuple(depth.shape)}")
        depth = F.interpolate(depth.float(), tuple(latent_size(fields)), mode="bicubic", align_corners=False)
        return Condition(concat=without(scaled_by_range(depth), dropped))

    def get_extra_state(self) -> Tensor:
        """Return the architecture of the depth network, for the state dict."""
        return text_to_tensor("" if self.network is None else self.network.description)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the architecture of the depth network from a state dict."""
        if self.network is not None:
            self.network.restore(tensor_to_text(state))

    def _depth(self, fields: Fields) -> Tensor:
        """Return the depth maps, `(B, 1, H, W)`."""
        if "depth" in fields:
            return self.tensor(fields, "depth")
        if self.network is None:
            raise ValueError(
                f"the field depth is needed, but the fields that are there are: {', '.join(fields)}; give it, too, or a depth "
                "network that makes it of images: conditioner.name=FOLDER_OR_HUB_NAME"
            )
        depth: Tensor = self.network(self.tensor(fields, "image"))
        return depth
