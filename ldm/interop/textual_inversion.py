"""Textual inversion: words that others have learned, each as vectors that a text encoder takes in place of its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ldm.conditioner.text import text_parts
from ldm.files.similar import similar
from ldm.interop.pickled import read_pickled
from ldm.interop.source import PICKLED, read_weights

SAFE = ".safetensors"

VECTORS = "emb_params"
"""The only tensor in a .safetensors file of user interfaces; the word is the file's name."""

PARAMETERS = "string_to_param"
"""The same in their older files: name of a parameter -> its vectors."""

OF_TWO_ENCODERS = frozenset({"clip_l", "clip_g"})
"""Tensors in a file for Stable Diffusion XL."""


class LearnedWord(NamedTuple):
    """A word that was learned.

    Attributes:
        word: The word, as it is written in a prompt.
        vectors: The vectors that the encoder takes in its place, `(n, D)`.
        file: The file that it is from.
    """

    word: str
    vectors: Tensor
    file: Path


def read_words(files: str | Path | Sequence[str | Path] | None) -> list[LearnedWord]:
    """Read files of textual inversion: those of user interfaces, and of diffusers. No code is run.

    A file of a user interface holds vectors alone, and the name of the file is their word.

    Args:
        files: A .safetensors, .pt or .bin file, or a list of them; None: none.

    Raises:
        ValueError: If a file holds no words, or two of them the same one.
        FileNotFoundError: If there is no such file.
    """
    named = [] if files is None else [files] if isinstance(files, str | Path) else list(files)
    found: dict[str, LearnedWord] = {}
    for path in map(Path, named):
        for word in _read(path):
            known = found.setdefault(word.word.lower(), word)
            if known is not word:
                raise ValueError(
                    f"{known.file} and {path} hold the same word {word.word!r}; give one of them, or rename the file, whose name "
                    "is the word where it holds none"
                )
    return list(found.values())


def teach(conditioner: nn.Module, words: Iterable[LearnedWord]) -> None:
    """Let the text encoders of a model read learned words.

    Args:
        conditioner: The conditioner of the model, which is changed.
        words: The words.

    Raises:
        ValueError: If no text encoder takes vectors of that length.
    """
    encoders = [part for part in text_parts(conditioner) if part.input_width is not None]
    for word in words:
        length = word.vectors.shape[1]
        fitting = [encoder for encoder in encoders if encoder.input_width == length]
        if not fitting:
            takes = " and ".join(str(encoder.input_width) for encoder in encoders)
            raise ValueError(
                f"{word.file} has vectors of {length} numbers, but "
                + (
                    f"the text encoder of this model takes {takes}"
                    if encoders
                    else "this model has no frozen text encoder"
                )
                + "; a word works with the text encoder that it was learned with: 768 numbers are of CLIP ViT-L/14, as in Stable "
                "Diffusion 1, and 1024 of OpenCLIP ViT-H/14, as in Stable Diffusion 2"
            )
        for encoder in fitting:
            encoder.add_word(word.word, word.vectors)


def _read(path: Path) -> list[LearnedWord]:
    """Read the words of a file."""
    if not path.is_file():
        endings = (SAFE, *PICKLED)
        close = similar(path, (one for one in path.parent.glob("*") if one.suffix in endings))
        hint = f"there is {', '.join(close)}" if close else f"give a file that ends in {', '.join(endings)}"
        raise FileNotFoundError(f"no file textual_inversion={path}; {hint}")
    content = read_pickled(path) if path.suffix in PICKLED else dict(read_weights(path).tensors)
    if content.keys() >= OF_TWO_ENCODERS:
        raise ValueError(f"{path} is for the two text encoders of Stable Diffusion XL, which is not read")
    tensors = _by_word(content, path.stem)
    strange = [name for name, value in tensors.items() if not isinstance(value, Tensor) or value.ndim not in (1, 2)]
    if strange or not tensors:
        raise ValueError(
            f"{path} holds no learned words: a word is one vector, or a few of them, (n, D), but there is "
            f"{', '.join(map(repr, strange[:3])) or 'nothing'}; a LoRA is given as lora=, a model as ckpt="
        )
    return [LearnedWord(word, value.reshape(-1, value.shape[-1]).float(), path) for word, value in tensors.items()]


def _by_word(content: dict[str, Any], stem: str) -> dict[str, Any]:
    """Return the tensors of a file by the words that they are."""
    if isinstance(content.get(PARAMETERS), dict) and len(content[PARAMETERS]) == 1:
        (vectors,) = content[PARAMETERS].values()
        return {stem: vectors}
    if content.keys() == {VECTORS}:
        return {stem: content[VECTORS]}
    return {str(word): value for word, value in content.items()}
