"""A part of a model that was read from another layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A network that was read: what builds it, its weights, and an account of the tensors it was read from.

    Attributes:
        node: The config node that builds it, with `_target_`; plain values.
        weights: The whole state dict, by our names.
        used: Their names of the tensors that were taken.
        dropped: Their name of a tensor that was left out on purpose -> why.
    """

    node: dict[str, Any]
    weights: dict[str, Tensor]
    used: set[str]
    dropped: Mapping[str, str] = field(default_factory=dict)
