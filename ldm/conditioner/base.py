"""What every conditioner is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ldm.batch import Condition


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

    @property
    @abstractmethod
    def frozen_hash(self) -> str | None:
        """A name for what a frozen conditioner gives, so that it can be cached; None for one that is trained."""


def text_to_tensor(text: str) -> Tensor:
    """Text as UTF-8 bytes, `(N,)` uint8: the form in which a checkpoint can hold it and still hold tensors only."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def tensor_to_text(tensor: Tensor) -> str:
    """The inverse of `text_to_tensor`."""
    return bytes(tensor.tolist()).decode()
