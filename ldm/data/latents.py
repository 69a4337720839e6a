"""One sample of cached latents, as a .safetensors file: tensors, and how they were made."""

from __future__ import annotations

import json

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldm.batch import Condition
from ldm.data.decode import Broken

FACTS_KEY = "ldm_encoding"


def pack_latent(
    moments: Tensor,
    facts: dict[str, str],
    *,
    geometry: Tensor,
    flipped: Tensor | None = None,
    text: Condition | None = None,
) -> bytes:
    """The bytes of a sample's file.

    moments  mean and log-variance of the raw latent's posterior, `(2C, h, w)`
    facts    how they were made
    geometry how the image was cut, `(6,)`; see Batch
    flipped  the same for the mirrored image
    text     what a frozen text encoder gave for the caption: tokens `(L, D)`, mask `(L,)`
    """
    tokens, mask = (text.tokens, text.mask) if text is not None else (None, None)
    tensors = {"moments": moments, "flipped": flipped, "tokens": tokens, "mask": mask, "geometry": geometry}
    given = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    return save(given, {FACTS_KEY: json.dumps(facts, sort_keys=True)})  # of several keys the order would vary


def unpack_latent(data: bytes) -> dict[str, Tensor]:
    """The tensors of a sample's file, floating point as fp32. Raises Broken."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise Broken("unreadable latent", str(error)[:200]) from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def read_encoding(head: bytes) -> dict[str, str] | None:
    """How a sample's tensors were made, from the first kilobytes of its file; None where it is another kind of file."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length + 8 > len(head):
        return None
    try:
        return json.loads(json.loads(head[8 : 8 + length])["__metadata__"][FACTS_KEY])
    except (ValueError, KeyError, TypeError):
        return None
