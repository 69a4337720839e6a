"""What every conditioner is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ldm.batch import Condition
from ldm.text import shortened


class Conditioner(nn.Module, ABC):
    """Turns captions into a `Condition`. The empty caption "" stands for "no condition".

    width  of the tokens
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    @abstractmethod
    def prepare(self, captions: Iterable[str]) -> None:
        """Get ready to train, once: learn a vocabulary from the captions, or load pretrained weights."""

    @abstractmethod
    def forward(self, captions: Sequence[str]) -> Condition:
        """captions `(B,)` -> Condition with tokens `(B, L, width)`."""

    @abstractmethod
    def overflow(self, captions: Sequence[str]) -> list[str]:
        """Return the end of each caption that is cut away, since it is too long; "" where the whole caption fits."""

    @property
    @abstractmethod
    def frozen_hash(self) -> str | None:
        """A name for what a frozen conditioner gives, so that it can be cached; None for one that is trained."""


def cut_captions(conditioner: Conditioner, captions: Iterable[str]) -> str | None:
    """Say how many of some training captions are too long for a conditioner; None where it takes all of them whole."""
    looked_at = list(captions)
    cut = [(caption, rest) for caption, rest in zip(looked_at, conditioner.overflow(looked_at), strict=True) if rest]
    if not cut:
        return None
    caption, rest = cut[0]
    return (
        f"{len(cut)} of {len(looked_at)} captions looked at are longer than conditioner.max_tokens allows, and are cut; of the "
        f"first, {shortened(caption)!r}, this is not seen: {shortened(rest)!r}"
    )


def cut_prompts(conditioner: Conditioner, prompts: Iterable[str]) -> Iterator[str]:
    """Say of each different prompt that is too long for a conditioner what is cut away."""
    different = list(dict.fromkeys(prompts))
    for prompt, rest in zip(different, conditioner.overflow(different), strict=True):
        if rest:
            yield f"the prompt {shortened(prompt)!r} is longer than the model takes; cut away is {shortened(rest)!r}"


def text_to_tensor(text: str) -> Tensor:
    """Text as UTF-8 bytes, `(N,)` uint8: the form in which a checkpoint can hold it and still hold tensors only."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def tensor_to_text(tensor: Tensor) -> str:
    """The inverse of `text_to_tensor`."""
    return bytes(tensor.tolist()).decode()
