"""Texts to tokens: special tokens in a text are read as letters, and the part that does not fit can be reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from ldm.pretrained.hub import local_files_only
from ldm.pretrained.tokenizer_files import ADVICE, bare_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
"""Files of tokenizers; a folder with a text model has at least one of them."""

SAME: Mapping[str, Sequence[str]] = {
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("openai/clip-vit-large-patch14",),
    "google-bert/bert-base-uncased": ("bert-base-uncased",),
}
"""Name of a model on the hub -> others with the same tokenizer, except for the padding token."""


def load_tokenizer(name: str, *, local: bool = False) -> Any:
    """Return the tokenizer of a pretrained model; without its files, transformers would make up some that know no words.

    Args:
        name: Name of the model on the hub, or a local folder.
        local: Look on this machine alone.

    Raises:
        OSError: Where there is none.
        ValueError: Where the model has no files of one.
    """
    folder = Path(name)
    if folder.is_dir():
        files = any((folder / file).is_file() for file in TOKENIZER_FILES)
    else:
        files = bool(get_tokenizer_config(name, local_files_only=local))
    if not files:
        raise ValueError("it has no files of a tokenizer, like tokenizer.json")
    return AutoTokenizer.from_pretrained(name, use_fast=True, local_files_only=local)


def padded_tokenizer(name: str, pad_token: str | None = None) -> tuple[Tokenizer, int | None, str | None]:
    """Return a tokenizer, and number and text of the token that fills captions up; None where it has none.

    Args:
        name: Name of a model on the hub, a folder with the files of a tokenizer, or one of these files.
        pad_token: The token that fills captions up; None: the tokenizer's own.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file of it is damaged, or a part is missing.
    """
    found = bare_tokenizer(Path(name))
    if found is None:
        loaded = _loaded(name)
        found = loaded.backend_tokenizer, loaded.pad_token
    tokenizer, own = found
    token = pad_token or own
    return tokenizer, None if token is None else tokenizer.token_to_id(token), token


def _loaded(name: str) -> Any:
    """Return the tokenizer of a model, or where it is not at hand, that of a model whose tokenizer is the same."""
    problems, local = [], local_files_only(name)
    for candidate in (name, *SAME.get(name, ())):
        try:
            return load_tokenizer(candidate, local=local)
        except (OSError, ValueError) as error:
            problems.append((str(error).splitlines() or ["?"])[0])
    raise FileNotFoundError(
        f"no tokenizer {name!r} ({problems[0]}): it is not in the file of the weights, and neither on this machine nor given by "
        f"the hub now; {ADVICE}"
    )


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Encode texts as plain text: in a caption, "<pad>" and "</s>" are letters, not special tokens.

    Args:
        tokenizer: The tokenizer, with truncation and padding already set.
        texts: Captions or prompts, `(B,)`.

    Returns:
        An encoding for each text. Special tokens are only those that the tokenizer itself puts around a text.
    """
    return [encoding for _, encoding in _encoded(tokenizer, texts)]


def overflow(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the end of each text that the tokenizer cuts away.

    Args:
        tokenizer: The tokenizer, with truncation already set.
        texts: Captions or prompts, `(B,)`.

    Returns:
        The part of each text that is lost; "" where the whole text fits.
    """
    rests = []
    for text, encoding in _encoded(tokenizer, texts):
        starts = [
            start
            for part in encoding.overflowing
            for (start, _), special in zip(part.offsets, part.special_tokens_mask, strict=True)
            if not special
        ]
        rests.append(text[min(starts) :].strip() if starts else "")
    return rests


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[tuple[str, Encoding]]:
    """Return texts as they were encoded, and their encodings.

    Most tokenizers need only the setting that special tokens in a text are text. The vocabulary of some (T5's) holds
    them as pieces of words, too: with a space after its first letter, such a piece is one no longer.
    """
    tokenizer.encode_special_tokens = True  # each time: a copy of a tokenizer, or one from a file, has forgotten it
    pairs = list(zip(texts, tokenizer.encode_batch(list(texts)), strict=True))
    special = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    everything = "\n".join(texts)
    if any(content in everything for content in special.values()):
        for place, (text, encoding) in enumerate(pairs):
            if any(
                number in special and not added for number, added in zip(encoding.ids, encoding.special_tokens_mask)
            ):
                for content in special.values():
                    text = text.replace(content, f"{content[0]} {content[1:]}")
                pairs[place] = (text, tokenizer.encode(text))
    return pairs
