"""The contract between data and model: the fields of a batch, and the condition that a backbone gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ldm.files.text import clean_prompts
from ldm.options.rule import SIZE, check

Fields: TypeAlias = dict[str, Tensor | list[Any]]
"""Name -> one value for each of B images: a tensor `(B, ...)`, or a list of length B.

image         `(B, 3, H, W)` in [-1, 1]
moments       what an encoder gave, in place of images, `(B, M, H/f, W/f)`: with a KL regulariser mean and log-variance of
              the raw latent's posterior, M = 2C; else the raw latent itself, M = C
caption       list of texts
label         number of a class, `(B,)` int64
boxes         `(B, N, 5)`: number of a class, then x0, y0, x1, y1 in [0, 1] of the image; class -1 where there is no box
segmentation  number of a class for each pixel, `(B, H, W)` int64
depth         `(B, 1, H, W)` in [-1, 1]
mask          `(B, 1, H, W)`, 1 where something is to be made, 0 where the image stays
loss_weight   how much each pixel counts in the loss, `(B, 1, H, W)` in [0, 1]
low_resolution  the image made smaller by a factor s and perhaps worse, `(B, 3, H/s, W/s)` in [-1, 1]
image_embedding  what a frozen vision encoder gave for an image, `(B, D)` or `(B, L, D)`
neighbors     embeddings of the K images of a database that are nearest to each image, `(B, K, D)`
geometry      how each image was cut, in pixels, `(B, 6)`: height and width of the original; top and left of the crop in the
              resized image; height and width of the result. Podell et al., 2023, section 2.2, arXiv:2307.01952
text_tokens   what a frozen text encoder gave for the caption, `(B, L, D)`, where it was cached
text_mask     which of these tokens count, `(B, L)` bool
patch_features  what a frozen vision encoder gave for the patches of the image, `(B, D, h, w)`, where it was cached

Two fields are of sampling alone:

noise_level    how much noise is added to `low_resolution`, `(B,)` in [0, 1], numbers or a list of them; see
               `ldm.conditioner.low_resolution`
seed           the seed of the image, `(B,)` int64, which a model gives itself

Some fields are not read from samples: a model derives them, by its autoencoder, where its conditioner asks for them. See
`ldm.autoencoder.derived`.

image_size     height and width of the image, `(B, 2)` int64, the same for all images
latent_size    height and width of the latent, `(B, 2)` int64, the same for all images
masked_latent  the latent of the image with its masked part gray, `(B, C, H/f, W/f)`, derived from `image` and `mask`;
               `black_masked_latent` is the same where it is black
"""


class Size(NamedTuple):
    """The size of images in pixels.

    Attributes:
        height: Number of rows.
        width: Number of columns.
    """

    height: int
    width: int

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"[{self.height},{self.width}]"


def as_size(size: int | Sequence[int]) -> Size:
    """Return a size that was given as one number, for squares, or as height and width.

    Raises:
        ValueError: Where it is neither.
    """
    check("size", size, SIZE)
    return Size(size, size) if isinstance(size, int) else Size(*size)


class Condition(NamedTuple):
    """The condition that a backbone gets beside x_t and t. A part that is None is not there.

    Attributes:
        tokens: Sequence for cross-attention, `(B, L, D)`.
        mask: True where a token counts, `(B, L)` bool; None: all count.
        vector: Added to the time embedding through a projection, `(B, V)`.
        concat: Maps that are put beside x_t, `(B, C, h, w)`.
    """

    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    concat: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether no part is there: nothing is said, and nothing can be."""
        return all(part is None for part in self)

    def mean_token(self) -> Tensor:
        """Return the mean of the tokens that count, `(B, D)`."""
        assert self.tokens is not None
        if self.mask is None:
            return self.tokens.mean(1)
        counts = self.mask[:, :, None].to(self.tokens.dtype)
        return (self.tokens * counts).sum(1) / counts.sum(1)

    def where(self, rows: Tensor, other: Condition) -> Condition:
        """Return the rows of `other` where `rows` is true, and this condition's rows elsewhere.

        Args:
            rows: `(B,)` bool.
            other: A condition of the same kind, of B images or of one.

        Raises:
            ValueError: Where only one of the two conditions has some part.
        """
        parts: list[Tensor | None] = []
        for here, there in zip(self, other, strict=True):
            if (here is None) != (there is None):
                raise ValueError("conditions of different kinds cannot be mixed; build both by one conditioner")
            if here is None or there is None:
                parts.append(None)
            else:
                parts.append(torch.where(rows.view(-1, *[1] * (here.ndim - 1)), there, here))
        return Condition(*parts)

    def lerp(self, other: Condition, fractions: Sequence[float] | Tensor) -> Condition:
        """Return a condition between this one and another of its kind; strictly between, the tokens of both count.

        Args:
            other: The other end.
            fractions: The position of each row on the way to the other end, `(B,)` in [0, 1].

        Raises:
            ValueError: Where a part has another shape at the other end.
        """

        def between(here: Tensor | None, there: Tensor | None) -> Tensor | None:
            if here is None or there is None:
                return here
            if here.shape != there.shape:
                raise ValueError(
                    f"the condition is {tuple(here.shape)} at one end and {tuple(there.shape)} at the other, and nothing lies "
                    "between them; give two ends with as many tokens"
                )
            weights = torch.as_tensor(fractions, dtype=here.dtype, device=here.device)
            return torch.lerp(here, there, weights.view(-1, *[1] * (here.ndim - 1)))

        mask = self.mask
        if mask is not None and other.mask is not None:
            weights = torch.as_tensor(fractions, device=mask.device)[:, None]
            ours, theirs = weights < 1, weights > 0
            mask = (mask & ours) | (other.mask & theirs)
        return Condition(
            between(self.tokens, other.tokens),
            mask,
            between(self.vector, other.vector),
            between(self.concat, other.concat),
        )

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Concatenate several conditions of one kind along the batch.

        Raises:
            ValueError: Where some conditions have a part that others have not.
        """
        return Condition(*map(_cat, zip(*conditions, strict=True)))


class SkippedSample(NamedTuple):
    """A sample that cannot be used.

    Attributes:
        shard: The shard in which it is.
        key: Its name there.
        reason: Why, in a few words by which such samples are counted.
        detail: More about this one; empty where there is nothing more.
    """

    shard: str
    key: str
    reason: str
    detail: str = ""

    @property
    def why(self) -> str:
        """Return reason and detail."""
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


class Batch(NamedTuple):
    """Samples as they leave the data module.

    Attributes:
        key: Names of the samples, `(B,)`.
        fields: Their values by the name of the field; exactly one of `image` and `moments` is among them.
        skipped: Broken samples whose places in this batch were taken by others.
    """

    key: list[str]
    fields: Fields
    skipped: Sequence[SkippedSample] = ()


def batch_size(fields: Fields) -> int:
    """Return the number B of images that some fields belong to.

    Raises:
        ValueError: Where there are no fields.
    """
    if not fields:
        raise ValueError("there are no fields, so nothing says for how many images; give at least one, like caption")
    return len(next(iter(fields.values())))


def tensor_field(fields: Fields, name: str) -> Tensor:
    """Return a field that is a tensor, `(B, ...)`.

    Raises:
        ValueError: Where it is missing, or is a list.
    """
    value = _field(fields, name)
    if not isinstance(value, Tensor):
        raise ValueError(f"the field {name} is a tensor (B, ...); got a {type(value).__name__}")
    return value


def list_field(fields: Fields, name: str) -> list[Any]:
    """Return a field that is a list of length B.

    Raises:
        ValueError: Where it is missing, or is a tensor.
    """
    value = _field(fields, name)
    if not isinstance(value, list):
        raise ValueError(f"the field {name} is a list, one value for each image; got a {type(value).__name__}")
    return value


def whole_geometry(size: int | Sequence[int], count: int) -> Tensor:
    """Return the field `geometry`, `(count, 6)` int64, of images that have this size from the beginning and are not cropped."""
    size = as_size(size)
    return torch.tensor([[*size, 0, 0, *size]]).expand(count, -1)


def of_one_size(numbers: Iterable[int], size_of: Callable[[int], Size], most: int) -> list[list[int]]:
    """Return numbers of images in groups of one size, at most so many in each.

    Args:
        numbers: The numbers.
        size_of: Returns the size of an image.
        most: Images of a group, at most.
    """
    groups: dict[Size, list[int]] = {}
    for number in numbers:
        groups.setdefault(size_of(number), []).append(number)
    return [group[first : first + most] for group in groups.values() for first in range(0, len(group), most)]


def clean_fields(fields: Mapping[str, Any] | None, prompts: str | Sequence[str] | None) -> Fields:
    """Return the fields of images, with clean captions, which are given in one of two ways.

    Args:
        fields: Name of a field -> its values, one for each image.
        prompts: Short for the field `caption` alone; a str is one prompt.

    Raises:
        ValueError: Where not exactly one of both is given, or fields differ in the number of images.
    """
    if fields is not None and not isinstance(fields, Mapping):
        raise ValueError(
            f"fields are a mapping from names to values; got {fields!r}; prompts go by name: prompts=[...]"
        )
    if (fields is None) == (prompts is None):
        raise ValueError('give one of prompts=["a red heart"] and fields={"caption": ["a red heart"]}')
    found: dict[str, Any] = {"caption": prompts} if fields is None else dict(fields)
    if "caption" in found:
        found["caption"] = clean_prompts(found["caption"])
    counts = {name: len(values) for name, values in found.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"fields have one value for each image; got {counts}")
    return found


def _field(fields: Fields, name: str) -> Tensor | list[Any]:
    if name not in fields:
        there = ", ".join(fields) or "none"
        raise ValueError(f"the field {name} is needed, but the fields that are there are: {there}; give it, too")
    return fields[name]


def _cat(parts: Iterable[Tensor | None]) -> Tensor | None:
    parts = list(parts)
    given = [part for part in parts if part is not None]
    if given and len(given) != len(parts):
        raise ValueError(
            "conditions of different kinds: some have this part and some do not; build all by one conditioner"
        )
    return torch.cat(given) if given else None
