"""Low-rank adaptation: a small change of a finished network is trained in place of its weights.

References:
    Hu et al., 2021, LoRA, section 4.1, arXiv:2106.09685.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from ldm.nn.attention import Attention
from ldm.options.rule import COUNT, Real, check

ADAPTER_KEY = "adapter"
"""The key of the adapter's config node in the config of a model that was trained with one."""

PROJECTIONS = ("query", "key", "value", "out")
"""The layers of an attention that are adapted."""

BASE, DOWN, UP = ".base_layer", ".lora_A.default.weight", ".lora_B.default.weight"
"""Endings that peft gives to the adapted layer itself, to the matrix A and to the matrix B."""


class LowRank(NamedTuple):
    """The change of a layer's weight, `scale` B A.

    Attributes:
        down: The matrix A, `(rank, inputs)`; of a convolution a kernel with as many outputs as the rank.
        up: The matrix B, `(outputs, rank)`; of a convolution a kernel of one place.
    """

    down: Tensor
    up: Tensor

    def times(self, scale: float) -> Tensor:
        """Return `scale` B A in fp32, `(outputs, inputs)`; of a convolution, inputs are those of all places of its kernel.

        References:
            Hu et al., 2021, equation 3, arXiv:2106.09685.
        """
        return scale * self.up.float().flatten(1) @ self.down.float().flatten(1)


class LoRA:
    """Trains, for each linear layer of all attentions, two thin matrices: W x becomes W x + (alpha / rank) B A x.

    B begins at zero, so that the network begins as it is.

    Args:
        rank: Rows of A and columns of B.
        alpha: The strength of the change; where it stays, another rank needs no other learning rate.
        dropout: Fraction of the inputs of A that training leaves out, in [0, 1).

    Raises:
        ValueError: If a value is outside of its range.
    """

    def __init__(self, rank: int = 16, alpha: int = 16, dropout: float = 0.0) -> None:
        check("adapter.rank", rank, COUNT)
        check("adapter.alpha", alpha, COUNT)
        check("adapter.dropout", dropout, Real(0, 1, below=True))
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout

    @property
    def scale(self) -> float:
        """The number that B A is multiplied with."""
        return self.alpha / self.rank

    def adapt(self, network: nn.Module) -> None:
        """Add the matrices to a network, and freeze all the rest of it.

        Args:
            network: The network, which is changed.

        Raises:
            ValueError: If it has no attention.
            ModuleNotFoundError: If peft is not installed.
        """
        layers = [
            f"{name}.{layer}"
            for name, part in network.named_modules()
            if isinstance(part, Attention)
            for layer in PROJECTIONS
        ]
        if not layers:
            raise ValueError(
                "adapter=lora changes layers of attention, and this network has none; leave the adapter out"
            )
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f'adapter=lora needs {error.name}; type pip install -e ".[lora]"') from error
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=layers, bias="none"
        )
        inject_adapter_in_model(config, network)

    def merge(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a network without adapter that computes the same: W + (alpha / rank) B A.

        Args:
            weights: The state dict of the adapted network, or of a model that has it.
        """
        changes = low_rank_changes(weights)
        merged: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            if name.endswith((DOWN, UP)):
                continue
            layer, is_base, suffix = name.partition(BASE)
            if is_base and suffix == ".weight" and (change := changes.get(layer)) is not None:
                tensor = tensor + change.times(self.scale).to(tensor)
            merged[layer + suffix] = tensor
        return merged


def low_rank_changes(weights: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Return name of each adapted layer -> its change.

    Args:
        weights: The state dict of an adapted network.
    """
    layers = [name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)]
    return {layer: LowRank(weights[layer + DOWN], weights[layer + UP]) for layer in layers}
