"""Frozen networks of images from Hugging Face that are loaded when they are needed, and travel with a model."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from ldm.options.rule import COUNT, check
from ldm.pretrained.architectures import vision_architecture
from ldm.pretrained.loading import WEIGHTS, loading
from ldm.pretrained.precision import full_precision
from ldm.pretrained.vision import IMAGENET_MEAN, IMAGENET_STD, colour_statistics, standardized


class FrozenNetwork(nn.Module, ABC):
    """A network that reads images and is never trained.

    It is empty until `load` reads it from a folder or the hub, or `restore` builds it as it was, for a state dict to fill in.

    Args:
        name: Name of the model on the hub, or a local folder.
        size: Side in pixels to which images are resized first.
        option: Name of the group of options by which a user gives both, for errors.

    Attributes:
        kind: The kind of network, for messages: "depth network".
        auto: The class of transformers that builds a network of this kind by its config.
        classes: Model type -> the class that builds it in place of `auto`.
    """

    kind: ClassVar[str]
    auto: ClassVar[Any]
    classes: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, name: str, *, size: int, option: str = "conditioner") -> None:
        check(f"{option}.size", size, COUNT)
        super().__init__()
        self.option = option
        self.name = name
        self.size = size
        self.statistics: tuple[Sequence[float], Sequence[float]] = ((), ())
        self.network: nn.Module | None = None

    @abstractmethod
    def read(self, network: nn.Module, pixels: Tensor) -> Tensor:
        """Return the output of the network for standardized images.

        Args:
            network: The network.
            pixels: `(B, 3, size, size)`.

        Returns:
            A tensor `(B, ...)`.
        """

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return the output of the network for images `(B, 3, H, W)` in [-1, 1]: a tensor `(B, ...)`, float32."""
        if self.network is None:
            raise RuntimeError(f"there is no {self.kind} yet; call prepare(None) or load a checkpoint")
        with full_precision(image.device):
            return self.read(self.network, standardized(image.float(), self.size, *self.statistics)).float()

    def load(self) -> None:
        """Load the network, unless it is there.

        Raises:
            FileNotFoundError: Where there is no such network.
            ValueError: Where it is of another kind.
        """
        if self.network is not None:
            return
        with loading(self.kind, self.name, advice=f"set {self.option}.name=FOLDER") as local:
            config = AutoConfig.from_pretrained(self.name, local_files_only=local)
            part = getattr(config, "vision_config", None)
            if part is not None:  # of a network of images and texts, like CLIP
                part.projection_dim = config.projection_dim
                config = part
            network, found = self._class(config.model_type).from_pretrained(
                self.name, config=config, output_loading_info=True, local_files_only=local, **WEIGHTS
            )
        missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)  # a pooler is not asked
        if missing:
            raise ValueError(
                f"{self.name!r} is no {self.kind}: it lacks {len(missing)} weights of one, like {missing[0]}; give another as "
                f"{self.option}.name"
            )
        self.statistics = colour_statistics(self.name, local=local)
        self._adopt(network)

    def build_untrained(self) -> bool:
        """Build the network with random weights, to count what it computes; nothing is loaded.

        Returns:
            False where its architecture is neither on this machine nor known; then nothing was built.
        """
        config = vision_architecture(self.name)
        if config is None:
            return False
        self.restore(
            json.dumps({"network": config.to_dict(), "statistics": (IMAGENET_MEAN, IMAGENET_STD)}, default=str)
        )
        return True

    @property
    def description(self) -> str:
        """Describe the architecture and how colours are standardized, for `restore`; "" where nothing is loaded."""
        if self.network is None:
            return ""
        config = self.network.config.to_dict()  # type: ignore[operator,union-attr]
        return json.dumps({"network": config, "statistics": self.statistics}, default=str)

    def restore(self, description: str) -> None:
        """Build the network that a description is of, with random weights, unless it is there."""
        if description and self.network is None:
            content = json.loads(description)
            config = AutoConfig.for_model(**content["network"])
            network_class = self._class(config.model_type)
            self.statistics = content["statistics"]
            self._adopt(network_class.from_config(config) if network_class is self.auto else network_class(config))

    def train(self, mode: bool = True) -> FrozenNetwork:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    def _class(self, model_type: str) -> Any:
        return self.classes.get(model_type, self.auto)

    def _adopt(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False).eval()
