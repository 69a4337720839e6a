"""Read the fields of a sample from its files; put the fields of several samples together to those of a batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ldm.batch import Fields, Size
from ldm.data.fields.base import ComputedReader, FieldReader, Files, PlacedReader
from ldm.data.fields.cut import Cut
from ldm.data.transforms import Transform

NO_RNG = random.Random(0)
"""The generator for transforms that draw nothing."""

NO_BOX = -1.0
"""The class of the padding in `boxes`, where a sample has fewer than others of its batch."""


Generators: TypeAlias = Callable[[str], random.Random]
"""Makes the generator of the computed field with a name, for one sample in one epoch."""


class SampleFields:
    """Reads all fields of one sample that are asked for, those that lie on the image moved as it is.

    Args:
        transform: Makes the field `image` or `moments`, and says how the image was cut. Where it also reads cached tokens,
            those of the caption that was chosen become fields.
        readers: Read the other fields; one of them reads `caption` where cached tokens are read.
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
        computed: Generators,
        size: Size | None = None,
    ) -> dict[str, Any]:
        """Return the fields of a sample.

        Args:
            files: Its files beside the image.
            image: Gives the bytes of its image or latent.
            choose: Makes the generator by which readers choose; None: they choose always the same.
            rng: Makes the generator of crop and flip; called after the readers have chosen.
            computed: Makes the generator of a computed field; called after crop and flip are drawn.
            size: Size of the image; None: the transform's own.

        Raises:
            Broken: Where a field is missing or cannot be read.
        """
        values = {reader.name: reader.read(files, choose) for reader in self.readers}
        cut = self.transform(image(), rng(), size)
        tokens = {} if cut.text is None else cut.text.fields_of(values["caption"])
        return {**_finished(self.readers, values, cut, computed), **cut.fields, **tokens}

    def read_without_image(
        self, files: Files, image: Callable[[], bytes], *, computed: Generators, size: Size | None = None
    ) -> dict[str, Any]:
        """Return the fields of a sample but for the image, always the same.

        Of the image no more than the header is read, and that only where a field lies on it. It is decoded only where a
        field is computed from it.

        Args:
            files: The sample's files beside the image.
            image: Gives the bytes of its image or latent.
            computed: Makes the generator of a computed field.
            size: Size of the image; None: the transform's own.

        Raises:
            Broken: Where a field is missing or cannot be read.
        """
        values = {reader.name: reader.read(files, None) for reader in self.readers}
        return _finished(self.readers, values, self._still(self.readers, image, size), computed)

    def check(self, files: Files) -> None:
        """Raise Broken where a field is missing or cannot be read, as far as that is seen without decoding anything large."""
        for reader in self.readers:
            reader.read(files, None)

    def vary(
        self,
        files: Files,
        image: Callable[[], bytes],
        *,
        choose: Callable[[], random.Random],
        computed: Generators,
    ) -> dict[str, Any]:
        """Return those fields of a sample, whose image is always cut the same, that are drawn anew each time.

        Args:
            files: The sample's files beside the image.
            image: Gives the bytes of its image or latent.
            choose: Makes the generator by which readers choose.
            computed: Makes the generator of a computed field.

        Raises:
            Broken: Where a field is missing or cannot be read.
        """
        readers = [reader for reader in self.readers if reader.varies(files)]
        values = {reader.name: reader.read(files, choose) for reader in readers}
        return _finished(readers, values, self._still(readers, image), computed)

    def _still(
        self, readers: Sequence[FieldReader], image: Callable[[], bytes], size: Size | None = None
    ) -> Cut | None:
        """Return as much of the image, cut at the centre, as the fields of some readers need; None where they need nothing."""
        if any(isinstance(reader, ComputedReader) and reader.needs_image for reader in readers):
            return self.transform.still()(image(), NO_RNG, size)
        if any(isinstance(reader, (PlacedReader, ComputedReader)) for reader in readers):
            return Cut({}, self.transform.placement(image(), size))
        return None


def _finished(
    readers: Sequence[FieldReader], values: Mapping[str, Any], cut: Cut | None, computed: Generators
) -> dict[str, Any]:
    """Return the fields of some readers from what they have read; without a cut, none of them needs one."""
    found = dict(values)
    for reader in readers:
        if isinstance(reader, PlacedReader):
            assert cut is not None
            found[reader.name] = reader.place(values[reader.name], cut.placement)
        elif isinstance(reader, ComputedReader):
            assert cut is not None
            found[reader.name] = reader.compute(values[reader.name], cut, partial(computed, reader.name))
    return found


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
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise ValueError(
                f"the field {name} has other shapes in other samples of one batch: {', '.join(map(str, shapes))}; write "
                "the same shape for all"
            )
        return torch.stack(values)
    return torch.tensor(values) if isinstance(first, int) else values
