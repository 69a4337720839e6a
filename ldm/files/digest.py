"""Hashes that name a content: that of a file, or the weights of a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

BLOCK = 2**20
"""Bytes that are read at once."""


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits; the file is read."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def weights_hash(weights: Iterable[tuple[str, Tensor]], kind: str = "") -> str:
    """Return a name for a network, which depends on the names, shapes and values of its weights.

    Args:
        weights: Names and tensors, as `state_dict().items()` gives them; their order counts, their types do not.
        kind: A text on which the name depends, too, like how the network is used.
    """
    digest = hashlib.sha256(kind.encode())
    for name, tensor in weights:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
