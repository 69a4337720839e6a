"""Tokenizers as folders that transformers reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import BertTokenizer, CLIPTokenizer

SAYING = ("model", "normalizer", "pre_tokenizer", "post_processor")
"""The parts of a tokenizer that make its tokens."""


@dataclass(frozen=True)
class TokenizerFolder:
    """The folder of a tokenizer, which is not written yet.

    Attributes:
        class_name: The class of transformers that reads it, as a pipeline's `model_index.json` names it.
        files: Name of a file -> its text.
    """

    class_name: str
    files: Mapping[str, str]


def tokenizer_folder(text: str, *, max_tokens: int) -> TokenizerFolder:
    """Return the folder of a tokenizer, which gives the same tokens in transformers.

    Args:
        text: The tokenizer as JSON, with the token that fills captions up.
        max_tokens: Length to which captions are padded or cut.

    Raises:
        ValueError: If it has no token that fills captions up.
    """
    tokenizer = Tokenizer.from_str(text)
    if tokenizer.padding is None:
        raise ValueError("the tokenizer has no padding token; enable its padding before it is written")
    padding = tokenizer.padding["pad_token"]
    tokenizer.no_padding()
    tokenizer.no_truncation()
    content = json.loads(tokenizer.to_str())
    class_name, own = _class_of(content)
    special = {"pad_token": padding, **_special(content)}
    config = {
        "tokenizer_class": class_name,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
        **({"do_lower_case": True} if own else {}),
        **special,
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False),
        "special_tokens_map.json": json.dumps(special, indent=2, ensure_ascii=False),
    }
    return TokenizerFolder(class_name, {**files, **own})


def _class_of(content: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return the class of transformers that makes the same tokens, and the files that are of this class alone."""
    kinds: Mapping[str, tuple[str, Callable[..., tuple[Any, dict[str, str]]]]] = {
        "BPE": ("CLIPTokenizer", _clip),
        "WordPiece": ("BertTokenizer", _bert),
    }
    model = content["model"]
    if model["type"] in kinds:
        name, make = kinds[model["type"]]
        made, files = make(model)
        again = json.loads(made.backend_tokenizer.to_str())
        if all(again[part] == content[part] for part in SAYING):
            return name, files
    return "PreTrainedTokenizerFast", {}


def _clip(model: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    merges: Any = [tuple(pair) for pair in model["merges"]]  # which transformers takes, although it says otherwise
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    files = {"vocab.json": json.dumps(model["vocab"], ensure_ascii=False), "merges.txt": "\n".join(lines) + "\n"}
    return CLIPTokenizer(vocab=dict(model["vocab"]), merges=merges), files


def _bert(model: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return BertTokenizer(vocab=dict(model["vocab"])), {"vocab.txt": "\n".join(words) + "\n"}


def _special(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the roles of special tokens: those around each text, and the one for what is unknown."""
    first, last = _around(content.get("post_processor") or {})
    vocabulary = content["model"].get("vocab", {})
    roles = {"bos_token": first, "eos_token": last, "unk_token": content["model"].get("unk_token")}
    if content["model"]["type"] == "WordPiece":
        mask = "[MASK]" if "[MASK]" in vocabulary else None
        roles = {"cls_token": first, "sep_token": last, "unk_token": roles["unk_token"], "mask_token": mask}
    return {role: token for role, token in roles.items() if token is not None}


def _around(processor: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the special tokens before and behind each text; None where there is none."""
    if "cls" in processor:
        return processor["cls"][0], processor["sep"][0]
    pieces = processor.get("single", [])
    places = [place for place, piece in enumerate(pieces) if "Sequence" in piece]
    if not places:
        return None, None
    before = [piece["SpecialToken"]["id"] for piece in pieces[: places[0]]]
    behind = [piece["SpecialToken"]["id"] for piece in pieces[places[-1] + 1 :]]
    return (before[0] if before else None), (behind[-1] if behind else None)
