"""Tokenizers from bare files, as they lie beside published weights, without a config that says what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import BertTokenizer, CLIPTokenizer

ADVICE = (
    "put its files (tokenizer.json; or vocab.json and merges.txt, as CLIP has them; or vocab.txt, as BERT has it) into a folder "
    "called tokenizer beside the weights, or give tokenizer=FOLDER to python -m ldm.interop.load"
)
"""The part of an error that says where the files of a tokenizer go."""

CONFIGS = ("tokenizer_config.json", "config.json")
"""Files that tell transformers what the tokenizer in a folder is."""

PADDING = ("<|endoftext|>", "[PAD]", "<pad>")
"""Padding tokens: those of CLIP, BERT, T5 and our own tokenizers."""


def bare_tokenizer(place: Path) -> tuple[Tokenizer, str | None] | None:
    """Return the tokenizer of bare files, and the token that fills captions up; None where there are no such files.

    Args:
        place: A folder, or one of its files: tokenizer.json, or vocab.json and merges.txt of CLIP, or vocab.txt of BERT.

    Raises:
        ValueError: If a file is damaged, or its other half is missing.
    """
    folder = place if place.is_dir() else place.parent
    if place.is_dir() and any((folder / name).is_file() for name in CONFIGS):
        return None
    for name, read in READERS.items():
        if place == folder / name or (place.is_dir() and (folder / name).is_file()):
            try:
                tokenizer = read(folder / name)
            except OSError as error:
                raise ValueError(f"{error.filename or folder / name} is missing or cannot be read; {ADVICE}") from error
            except Exception as error:  # tokenizers raises no other class
                raise ValueError(f"{folder / name} is no file of a tokenizer ({error}); {ADVICE}") from error
            return tokenizer, padding_token(tokenizer)
    return None


def padding_token(tokenizer: Tokenizer) -> str | None:
    """Return the token with which a tokenizer fills captions up: that which it says, else a usual one that it has."""
    if tokenizer.padding is not None:
        return str(tokenizer.padding["pad_token"])
    return next((token for token in PADDING if tokenizer.token_to_id(token) is not None), None)


def _whole(file: Path) -> Tokenizer:
    return Tokenizer.from_str(file.read_text(encoding="utf-8"))


def _clip(file: Path) -> Tokenizer:
    vocabulary = json.loads(file.read_text(encoding="utf-8"))
    lines = (file.parent / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges: Any = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    backend: Tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges).backend_tokenizer
    return backend


def _bert(file: Path) -> Tokenizer:
    words = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # some words are other ends of lines
    backend: Tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}).backend_tokenizer
    return backend


READERS = {"tokenizer.json": _whole, "vocab.json": _clip, "vocab.txt": _bert}
"""Name of a file -> the function that reads a tokenizer from it; of several files in a folder, the first counts."""
