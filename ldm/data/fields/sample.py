"""Read the fields of a sample from its files; put the fields of several samples together to those of a batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ldm.batch import Fields, Size
from ldm.data.fields.base import FieldReader, Files, PlacedReader
from ldm.data.fields.placement import Placement
from ldm.data.transforms import Transform

NO_BOX = -1.0
"""The class of what stands in `boxes` where a sample has fewer than others of its batch."""


class SampleFields:
    """Reads all fields of one sample that are asked for, those that lie on the image moved as it is.

    Args:
        transform: Makes the field `image` or `moments`, and says how the image was cut.
        readers: Read the other fields.
    """

    def __init__(self, transform: Transform, readers: Sequence[FieldReader]) -> None:
        self.transform = transform
        self.readers = list(readers)

    def read(
        self,
        files: Files,
        image: Callable[[], bytes],
        *,
        choose: Callable[[], random.Random] | None,
        rng: Callable[[], random.Random],
        size: Size | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a sample.

        Args:
            files: Its files beside the image.
            image: Gives the bytes of its image or latent.
            choose: Makes the generator by which readers choose; None: they choose always the same.
            rng: Makes the generator of crop and flip; called after the readers have chosen.
            size: Of the image; None: the transform's own.

        Raises:
            Broken: Where a field is missing or cannot be read.
        """
        values = {reader.name: reader.read(files, choose) for reader in self.readers}
        cut = self.transform(image(), rng(), size)
        return {**self._placed(values, cut.placement), **cut.fields}

    def read_without_image(self, files: Files, image: Callable[[], bytes]) -> dict[str, Any]:
        """Return the fields of a sample but for the image, always the same.

        Of the image no more than the header is read, and that only where a field lies on it.

        Raises:
            Broken: Where a field is missing or cannot be read.
        """
        values = {reader.name: reader.read(files, None) for reader in self.readers}
        if not any(isinstance(reader, PlacedReader) for reader in self.readers):
            return values
        return self._placed(values, self.transform.placement(image()))

    def check(self, files: Files) -> None:
        """Raise Broken where a field is missing or cannot be read, as far as that is seen without decoding anything large."""
        for reader in self.readers:
            reader.read(files, None)

    def vary(self, files: Files, choose: Callable[[], random.Random]) -> dict[str, Any]:
        """Return those fields of a sample that are chosen anew each time. Raises Broken."""
        return {reader.name: reader.read(files, choose) for reader in self.readers if reader.varies(files)}

    def _placed(self, values: Mapping[str, Any], placement: Placement) -> dict[str, Any]:
        return {
            reader.name: reader.place(values[reader.name], placement)
            if isinstance(reader, PlacedReader)
            else values[reader.name]
            for reader in self.readers
        }


def collate_fields(samples: Sequence[Mapping[str, Any]]) -> Fields:
    """Return the fields of a batch from those of its samples, which all have the same names.

    Texts become a list; numbers, arrays and tensors are stacked; of boxes there are as many as the sample with the most has.
    """
    names = samples[0] if samples else ()
    return {name: _stack(name, [sample[name] for sample in samples]) for name in names}


def _stack(name: str, values: list[Any]) -> Tensor | list[Any]:
    first = values[0]
    if name == "boxes":
        return pad_sequence(values, batch_first=True, padding_value=NO_BOX)
    if isinstance(first, np.ndarray):
        return torch.from_numpy(np.stack(values))
    if isinstance(first, Tensor):
        return torch.stack(values)
    return torch.tensor(values) if isinstance(first, int) else values
