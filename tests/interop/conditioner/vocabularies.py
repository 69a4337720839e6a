"""Small vocabularies in the files of CLIP's and BERT's tokenizers."""

import json

from tokenizers import pre_tokenizers

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["c a", "ca t</w>", "r e", "re d</w>", "h e", "a r", "he ar", "hear t</w>"]
PIECES = [
    *LETTERS,  # "!" is the first one, as in CLIP's
    *(f"{letter}</w>" for letter in LETTERS),
    *(merge.replace(" ", "") for merge in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
CLIP_SIZE = len(PIECES)
START, END = CLIP_SIZE - 2, CLIP_SIZE - 1
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "heart", "blue", "##s", "!", "on", "white"]
CAPTIONS = ["a red cat", "", "Two hearts and a CAT on white!", "red " * 90]


def clip_files(folder):
    """Write the two files of CLIP's tokenizer, and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(PIECES)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return folder


def clip_folder(folder, *, pad_token="<|endoftext|>"):
    """Write the folder of a tokenizer as the pipelines of Stable Diffusion have it, and return it."""
    clip_files(folder)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {**special, "pad_token": pad_token, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({**special, "pad_token": pad_token}))
    return folder


def bert_files(folder):
    """Write the file of BERT's tokenizer, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def padded(ids, fill, length=77):
    """Return ids as they are padded or cut: the end of text stays the last one."""
    return [*ids[: length - 1], ids[-1]] if len(ids) > length else ids + [fill] * (length - len(ids))
