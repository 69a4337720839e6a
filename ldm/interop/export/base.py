"""The base class of the formats that models are written in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.interop.export.model import ExportedAutoencoder


class ExportFormat(ABC):
    """A format. Its methods check everything before they write."""

    @abstractmethod
    def write_model(self, node: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path, *, name: str) -> str:
        """Write a latent diffusion model.

        Args:
            node: Its config node.
            weights: Its state dict.
            folder: An empty folder.
            name: The name that the user gave.

        Returns:
            How the result is used, as text for the terminal.

        Raises:
            ValueError: If the format cannot hold it; the error names what it is.
        """

    @abstractmethod
    def write_autoencoder(self, autoencoder: ExportedAutoencoder, folder: Path, *, name: str) -> str:
        """Write an autoencoder alone.

        Args:
            autoencoder: The autoencoder.
            folder: An empty folder.
            name: The name that the user gave.

        Returns:
            How the result is used, as text for the terminal.

        Raises:
            ValueError: If the format cannot hold it; the error names what it is.
        """


def without_statistics(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an autoencoder without shift, scale and their count, which formats hold elsewhere."""
    return {name: value for name, value in weights.items() if name not in ("shift", "scale", "statistics_count")}
