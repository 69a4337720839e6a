"""One sample of cached latents, as a .safetensors file: tensors, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ldm.data.decode import Broken

FACTS_KEY = "ldm_encoding"

SOURCE_FACT = "source"
"""The fact beside a latent that names the shard of images that it was made of: digests of its contents, parted by spaces."""


FEATURES_FACT = "features"
"""The fact beside a latent that names the vision encoder of its features; "" where it has none."""

FEATURES, FLIPPED_FEATURES = "features", "flipped_features"
"""The names of the features of an image and of the mirrored image, which are read in the type in which they were stored."""


def pack_latent(tensors: Mapping[str, Tensor], facts: dict[str, str]) -> bytes:
    """Return the bytes of a sample's file.

    Args:
        tensors: moments `(M, h, w)`: what the encoder gave, see `Fields`; geometry `(6,)`: how the image was cut, see `Fields`;
            perhaps flipped `(M, h, w)`: the moments of the mirrored image; perhaps features `(D, h, w)` and flipped_features:
            what a frozen vision encoder gave for the patches of both images; perhaps captions `(K, 16)`, tokens `(K, L, D)`
            and mask `(K, L)`: what a frozen text encoder gave for the captions, see `CachedText`.
        facts: The settings with which they were made.
    """
    given = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return save(given, {FACTS_KEY: json.dumps(facts, sort_keys=True)})  # of several keys the order would vary


def unpack_latent(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a sample's file, floating point as fp32, but features as they are stored. Raises Broken."""
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:
        raise Broken("unreadable latent", str(error)[:200]) from error
    kept = (FEATURES, FLIPPED_FEATURES)
    return {
        name: tensor.float() if tensor.is_floating_point() and name not in kept else tensor
        for name, tensor in tensors.items()
    }


def read_encoding(head: bytes) -> dict[str, str] | None:
    """Return the settings with which a sample's tensors were made, from the start of its file; None for other kinds of file."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length + 8 > len(head):
        return None
    try:
        facts = json.loads(json.loads(head[8 : 8 + length])["__metadata__"][FACTS_KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and all(isinstance(fact, str) for fact in facts.values()) else None
