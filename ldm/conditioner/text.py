"""The base class of conditioners of captions, and messages about texts that are too long for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from ldm.batch import Condition, Fields, list_field
from ldm.conditioner.base import SingleConditioner, on_device
from ldm.files.text import shortened


class TextConditioner(SingleConditioner):
    """A conditioner of the field `caption`. The empty caption "" says nothing.

    Where a batch holds the tokens of a frozen encoder (`text_tokens`, `text_mask`), they take the place of the caption's.

    Args:
        width: Width of the tokens.
        drop_rate: Fraction of the training captions that are replaced by "", in [0, 1].
    """

    knows_null = True
    inputs = ("caption",)
    caption_caches = ("text_tokens", "text_mask")

    def __init__(self, width: int, *, drop_rate: float) -> None:
        super().__init__(drop_rate=drop_rate)
        self.width = width

    @abstractmethod
    def encode_captions(self, captions: Sequence[str]) -> Condition:
        """Return the condition of captions `(B,)`: tokens `(B, L, width)` and perhaps a mask `(B, L)`."""

    @abstractmethod
    def overflow(self, captions: Sequence[str]) -> list[str]:
        """Return the end of each caption that is cut away, since it is too long; "" where the whole caption fits."""

    @property
    @abstractmethod
    def frozen_hash(self) -> str | None:
        """Return a name for the output of a frozen encoder, by which it can be cached; None for one that is trained."""

    @property
    def input_width(self) -> int | None:
        """Length of the vectors that `add_word` takes; None for an encoder that learns no words."""
        return None

    def add_word(self, word: str, vectors: Tensor) -> None:
        """Learn a word by the vectors that the encoder takes in its place (textual inversion).

        Args:
            word: The word, as captions have it, in letters of any case.
            vectors: One vector or more, `(n, input_width)`.

        References:
            Gal et al., 2022, arXiv:2208.01618.
        """
        raise NotImplementedError

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition for B images; nothing is said of those that are `dropped`, `(B,)` bool."""
        if "text_tokens" in fields:
            tokens = self.tensor(fields, "text_tokens")
            mask = self.tensor(fields, "text_mask") if "text_mask" in fields else None
            return Condition(tokens, mask).where(on_device(dropped, tokens.device), self.encode_captions([""]))
        captions = list_field(fields, "caption")
        return self.encode_captions(
            ["" if drop else caption for caption, drop in zip(captions, dropped.tolist(), strict=True)]
        )


def text_parts(conditioner: nn.Module) -> list[TextConditioner]:
    """Return the conditioner itself, or those of its parts, that read captions."""
    return [part for part in conditioner.modules() if isinstance(part, TextConditioner)]


def cut_captions(conditioner: nn.Module, samples: Iterable[Fields]) -> str | None:
    """Return a warning that counts the training captions that are too long for a conditioner; None where all fit.

    Args:
        conditioner: The conditioner; only its parts that read captions are asked.
        samples: Fields with captions.
    """
    looked_at = [caption for fields in samples for caption in list_field(fields, "caption")]
    cut = [
        (caption, rest)
        for caption, *rests in zip(looked_at, *(part.overflow(looked_at) for part in text_parts(conditioner)))
        if (rest := max(rests, key=len, default=""))
    ]
    if not cut:
        return None
    caption, rest = cut[0]
    return (
        f"{len(cut)} of {len(looked_at)} captions looked at are longer than conditioner.max_tokens allows, and are cut; of the "
        f"first, {shortened(caption)!r}, this is not seen: {shortened(rest)!r}"
    )


def cut_prompts(conditioner: nn.Module, prompts: Iterable[str]) -> Iterator[str]:
    """Yield a message for each different prompt that is too long for a conditioner: what is cut away."""
    different = list(dict.fromkeys(prompts))
    for part in text_parts(conditioner):
        for prompt, rest in zip(different, part.overflow(different), strict=True):
            if rest:
                yield f"the prompt {shortened(prompt)!r} is longer than the model takes; cut away is {shortened(rest)!r}"
