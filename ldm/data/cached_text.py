"""The tokens of all captions of one sample, as they are kept beside its latent, and the choice of those of one caption."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.data.decode import Broken

DIGEST_BYTES = 16
"""The number of bytes of the digest of a caption."""

TEXT_FACT = "text"
"""The fact beside a latent that names the text encoder of its tokens; "" where it has none."""

CAPTIONS_FACT = "captions"
"""The fact beside a latent that says which fields the captions are from whose tokens it has."""


class CachedText(NamedTuple):
    """The tokens of the K captions of one sample.

    Attributes:
        captions: Digests of the captions, `(K, 16)` uint8.
        tokens: The tokens of a frozen text encoder for each of them, `(K, L, D)`.
        mask: Which of these tokens count, `(K, L)` bool; None: all.
    """

    captions: Tensor
    tokens: Tensor
    mask: Tensor | None

    @staticmethod
    def take_from(tensors: Mapping[str, Tensor]) -> CachedText:
        """Return the tokens in the file of a latent.

        Args:
            tensors: All tensors of the file, by name.

        Raises:
            Broken: Where there are no tokens, or tensors whose shapes do not fit one another.
        """
        if "tokens" not in tensors or "captions" not in tensors:
            raise Broken("latent without tokens")
        found = CachedText(tensors["captions"], tensors["tokens"], tensors.get("mask"))
        shape = found.tokens.shape
        fits = (
            found.tokens.is_floating_point()
            and found.captions.dtype == torch.uint8
            and len(shape) == 3
            and found.captions.shape == (shape[0], DIGEST_BYTES)
            and (found.mask is None or (found.mask.dtype == torch.bool and found.mask.shape == shape[:2]))
        )
        if not fits:
            raise Broken("unreadable latent", f"its tokens have shape {tuple(shape)}, which does not fit the rest")
        return found

    def fields_of(self, caption: str) -> dict[str, Tensor]:
        """Return the fields of one of the captions: text_tokens `(L, D)`, and perhaps text_mask `(L,)`.

        Raises:
            Broken: Where its tokens are not there.
        """
        rows = (self.captions == digest_of(caption)).all(1).nonzero()
        if not len(rows):
            raise Broken("no cached tokens of its caption")
        row = int(rows[0])
        fields = {"text_tokens": self.tokens[row]}
        return fields if self.mask is None else {**fields, "text_mask": self.mask[row]}


def digest_of(caption: str) -> Tensor:
    """Return the bytes by which a caption is known, `(16,)` uint8."""
    return torch.tensor(list(hashlib.sha256(caption.encode()).digest()[:DIGEST_BYTES]), dtype=torch.uint8)


def digests_of(captions: Sequence[str]) -> Tensor:
    """Return the bytes by which K captions are known, `(K, 16)` uint8."""
    return torch.stack([digest_of(caption) for caption in captions])


def captions_fact(fields: Iterable[str] | None) -> str:
    """Return the fact that says which captions of each sample have tokens.

    Args:
        fields: Names of the fields that captions are taken from; None: the .txt, or without one the json's "caption".
    """
    return json.dumps(None if fields is None else sorted(fields))


def check_cached_text(made: Mapping[str, str], fields: Iterable[str] | None, *, tags_vary: bool) -> None:
    """Check that every caption that can be drawn is one whose tokens lie beside the latents.

    Args:
        made: The settings with which the latents were made.
        fields: Names of the fields that captions are drawn from; None: the .txt, or without one the json's "caption".
        tags_vary: Whether the tags of captions are shuffled or left out.

    Raises:
        ValueError: Where some of them have none.
    """
    if tags_vary:
        raise ValueError(
            "tags that are shuffled or left out make another text at each draw, but the tokens beside the latents are those "
            "of whole captions in one order; set data.caption.shuffle_tags=false data.caption.drop_tags=0, or encode with "
            "text=false"
        )
    wanted, encoded = None if fields is None else set(fields), _encoded_fields(made)
    by_rule = encoded is None and (wanted is None or wanted == {"txt"})  # no other captions were encoded by this rule
    by_name = encoded is not None and (wanted or {"txt", "caption"}) <= set(encoded)
    if not (by_rule or by_name):
        fewer = "" if encoded == [] else f"set data.caption.fields={_typed(encoded)}, or "
        raise ValueError(
            f"the tokens beside the latents are those of captions from {_listed(encoded)}, but training draws captions from "
            f"{_listed(wanted)}; {fewer}encode with data.caption.fields={_typed(wanted)}, or with text=false"
        )


def _encoded_fields(made: Mapping[str, str]) -> list[str] | None:
    """Return the fields of `captions_fact`; a fact that is none names no field."""
    try:
        found = json.loads(made.get(CAPTIONS_FACT, ""))
    except (ValueError, RecursionError):
        return []
    if found is None:
        return None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _listed(fields: Iterable[str] | None) -> str:
    """Return names of fields as a sentence has them."""
    if fields is None:
        return 'the .txt or, where there is none, "caption"'
    return ", ".join(sorted(fields)) or "no field that is known"


def _typed(fields: Iterable[str] | None) -> str:
    """Return names of fields as they are typed behind an option, each with the weight 1."""
    return "null" if fields is None else typed_fields(dict.fromkeys(sorted(fields), 1.0))


def typed_fields(fields: Mapping[str, float]) -> str:
    """Return names and weights of fields as they are typed behind an option."""
    return f"{{{','.join(f'{name}:{weight:g}' for name, weight in fields.items())}}}"
