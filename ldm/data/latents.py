"""One sample of cached latents, as a .safetensors file: tensors, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldm.data.decode import Broken

FACTS_KEY = "ldm_encoding"


def pack_latent(tensors: Mapping[str, Tensor], facts: dict[str, str]) -> bytes:
    """Return the bytes of a sample's file.

    Args:
        tensors: moments `(2C, h, w)`: mean and log-variance of the raw latent's posterior; geometry `(6,)`: how the image was
            cut, see `Fields`; perhaps flipped `(2C, h, w)`: the moments of the mirrored image; perhaps tokens `(L, D)` and
            mask `(L,)`: what a frozen text encoder gave for the caption.
        facts: How they were made.
    """
    given = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(given, {FACTS_KEY: json.dumps(facts, sort_keys=True)})  # of several keys the order would vary


def unpack_latent(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a sample's file, floating point as fp32. Raises Broken."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise Broken("unreadable latent", str(error)[:200]) from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_encoding(head: bytes) -> dict[str, str] | None:
    """Return how a sample's tensors were made, from the first kilobytes of its file; None where it is another kind of file."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length + 8 > len(head):
        return None
    try:
        facts: dict[str, str] = json.loads(json.loads(head[8 : 8 + length])["__metadata__"][FACTS_KEY])
        return facts
    except (ValueError, KeyError, TypeError):
        return None
