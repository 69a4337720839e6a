"""The base classes of everything that turns fields into a `Condition`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from ldm.batch import Condition, Fields, batch_size, tensor_field
from ldm.conditioner.value_range import ValueRange
from ldm.options.rule import FRACTION, check


class Reader(nn.Module, ABC):
    """A part of a model that reads some fields, and may learn from samples of them before training.

    Attributes:
        inputs: Names of the fields that it reads.
        learns_from: Names of the fields that `prepare` reads from samples; empty where it learns nothing.
        ranges: The values that fields can have, where not all of their type are allowed.
    """

    inputs: tuple[str, ...]
    learns_from: tuple[str, ...] = ()
    ranges: tuple[ValueRange, ...] = ()

    @abstractmethod
    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Get ready to train: learn from samples, or load pretrained weights, unless that was done before.

        A run calls it before it opens the data, with None, and again with samples where `learns_from` names some fields.

        Args:
            samples: The fields of single training samples (B is 1), with the names in `learns_from`; they are read when they
                are asked for. None: nothing is learned here, since another process does it, or has done it before.
        """

    @final
    def check(self, fields: Fields, keys: Sequence[str] | None = None, *, advice: str | None = None) -> None:
        """Check the values of fields. Call it before they are moved to a GPU, which would have to be waited for.

        Args:
            fields: The fields of B images, on the CPU.
            keys: Names of the samples, `(B,)`, for the message; None: those of the field `key`, if it is there.
            advice: Advice where a value is not allowed; None: the advice for training.

        Raises:
            ValueError: Where a value is not allowed, like the number of a class that does not exist.
        """
        names = fields.get("key") if keys is None else keys
        for one in self.ranges:
            one.check(fields, None if names is None else list(map(str, names)), advice=advice)


class Conditioner(Reader):
    """The base class of all conditioners: fields in, `Condition` out.

    Conditioners of one field or two derive from `SingleConditioner`, which has less to write.

    Attributes:
        caption_caches: Names of fields that hold what was made of the captions before. Where they are there, they are read in
            the place of the captions.
    """

    caption_caches: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, fields: Fields) -> Condition:
        """Return the condition for B images, from the fields that `inputs` names."""

    @abstractmethod
    def null(self, fields: Fields) -> Condition:
        """Return the condition that says nothing about the images, of the same shapes as that of `forward`."""

    @abstractmethod
    def with_dropout(self, fields: Fields) -> Condition:
        """Return the condition for training: for each image, by chance, that of `forward` or that of `null`.

        The chance is drawn from torch's generator. Ho & Salimans, 2022, section 3.2, arXiv:2207.12598.
        """

    def with_captions(self, fields: Fields, captions: Sequence[str]) -> Fields:
        """Return fields with other captions, `(B,)`, and without what was made of their own captions before."""
        kept = {name: value for name, value in fields.items() if name not in self.caption_caches}
        return {**kept, "caption": list(captions)}


class SingleConditioner(Conditioner):
    """The base class of conditioners with one drop rate.

    Where the drop rate is 0, `null` says what `forward` says, since the network has never seen that nothing is said; unless
    `knows_null`.

    Args:
        drop_rate: Fraction of the training images for which nothing is said, for classifier-free guidance, in [0, 1].

    Attributes:
        knows_null: True where `null` makes sense without drop-out, too: the empty caption is a caption like others.
    """

    knows_null: bool = False
    place: Tensor
    """An empty buffer on the device of the condition."""

    def __init__(self, *, drop_rate: float) -> None:
        check("conditioner.drop_rate", drop_rate, FRACTION)
        super().__init__()
        self.drop_rate = drop_rate
        self.register_buffer("place", torch.zeros(()), persistent=False)

    @abstractmethod
    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition for B images.

        Args:
            fields: The fields that `inputs` names, and others.
            dropped: True for images about which nothing is to be said, `(B,)` bool, on the CPU.
        """

    def forward(self, fields: Fields) -> Condition:
        """Return the condition for B images, from the fields that `inputs` names."""
        return self.encode(fields, torch.zeros(batch_size(fields), dtype=torch.bool))

    def null(self, fields: Fields) -> Condition:
        """Return the condition that says nothing about the images, of the same shapes."""
        return self.encode(fields, torch.full((batch_size(fields),), self.knows_null or self.drop_rate > 0))

    def with_dropout(self, fields: Fields) -> Condition:
        """Return the condition for training, in which some images have that of `null`."""
        return self.encode(fields, torch.rand(batch_size(fields)) < self.drop_rate)

    def tensor(self, fields: Fields, name: str) -> Tensor:
        """Return a field that is a tensor, `(B, ...)`, on the device of the condition.

        Raises:
            ValueError: Where it is missing, or is a list.
        """
        return tensor_field(fields, name).to(self.place.device)


def without(values: Tensor, dropped: Tensor, null: float = 0.0) -> Tensor:
    """Return values with another value for images about which nothing is to be said.

    Args:
        values: A part of a condition, or what it is made of, `(B, ...)`.
        dropped: True for those images, `(B,)` bool, on the CPU.
        null: The value of those images.

    Returns:
        Values of the same shape.
    """
    rows = on_device(dropped, values.device).view(-1, *[1] * (values.ndim - 1))
    return values.masked_fill(rows, null)


def on_device(made: Tensor, device: torch.device) -> Tensor:
    """Return a tensor that was just made on the CPU on another device, for which the program does not wait."""
    return made.to(device, non_blocking=True)


def learned_state(reader: Reader) -> dict[str, Tensor]:
    """Return the state that a reader and its parts have learned from samples, by the names in its state dict."""
    parts = [name for name, part in reader.named_modules() if isinstance(part, Reader) and part.learns_from]
    names = {f"{part}._extra_state".lstrip(".") for part in parts}
    return {name: value for name, value in reader.state_dict().items() if name in names}


def set_learned_state(reader: Reader, state: dict[str, Tensor]) -> None:
    """Copy the state that another reader of the same kind has learned into a reader; see `learned_state`."""
    if state:
        reader.load_state_dict(state, strict=False)


def text_to_tensor(text: str) -> Tensor:
    """Return a text as UTF-8 bytes, `(N,)` uint8: so a checkpoint can hold it and still hold tensors only."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def tensor_to_text(tensor: Tensor) -> str:
    """Return the text whose bytes `text_to_tensor` gave."""
    return bytes(tensor.tolist()).decode()
