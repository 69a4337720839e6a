"""Conditions: what each of the images that are measured is made for. That of image i depends on i alone, not on their number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch

from ldm.batch import Fields, Size, whole_geometry
from ldm.conditioner.base import Reader
from ldm.data.base import DataModule
from ldm.data.caption_table import CaptionRow, read_caption_table
from ldm.data.dataset import ShardDataset
from ldm.data.order.shuffle import evaluation_order
from ldm.data.value_checks import check_used
from ldm.guidance.base import fields_of
from ldm.options.rule import COUNT, Optional, check


class OpenConditions(ABC):
    """Conditions that are ready to be read.

    Attributes:
        size: Height and width of the images in pixels, unless they have sizes of their own.
        period: The number of images after which the conditions repeat.
        wanted: Number of images, where a command says none.
        fingerprint: A name for what they are.
        plural: Their name, where it has to be said that they begin again; "" where that is meant.
    """

    size: Size
    period: int
    wanted: int = 5000
    fingerprint: str
    plural: str = ""

    def warnings(self, count: int) -> list[str]:
        """Return a warning where there are known to be more images than conditions."""
        if not self.plural or count <= self.period:
            return []
        return [
            f"{count} images are made for {self.period} {self.plural}, so each of these comes up to {-(-count // self.period)} "
            "times: the images are less diverse than as many of different ones"
        ]

    @abstractmethod
    def fields(self, numbers: Sequence[int]) -> Fields:
        """Return the fields of some images of one size, `geometry` among them."""

    def check(self, readers: Sequence[Reader], count: int) -> None:
        """Raise ValueError, with the sample's name, where the model cannot take a value of one of the first `count` images."""
        return

    def size_of(self, number: int) -> Size:
        """Return height and width of an image in pixels."""
        return self.size


class Conditions(ABC):
    """The base class of what a protocol chooses; it has the options."""

    @abstractmethod
    def open(
        self, readers: Sequence[Reader], data: Callable[[], DataModule], *, size: Size, inputs: Iterable[str]
    ) -> OpenConditions:
        """Read what is needed.

        Args:
            readers: The parts that read fields: the conditioner of the model that makes the images, and readers of its guidance.
            data: Gives the data module; it is called where data are read, and raises ValueError where there are none.
            size: Height and width of the images in pixels.
            inputs: Names of the fields that metrics read, in addition to the readers' own.

        Raises:
            ValueError: If the model or a metric needs a field that these conditions do not have.
        """


class SampleConditions(Conditions):
    """Each image is made for a sample of the validation data, in an order that is shuffled once and for all."""

    def open(
        self, readers: Sequence[Reader], data: Callable[[], DataModule], *, size: Size, inputs: Iterable[str]
    ) -> OpenConditions:
        """See `Conditions.open`."""
        module = data()
        wanted = {*fields_of(readers), *inputs}
        module.need(wanted)
        samples = module.open_validation()
        module.check_samples(samples)
        return OpenSamples(samples, module.fingerprint_of(samples), size, wanted)


class OpenSamples(OpenConditions):
    """Samples in an order that is shuffled once and for all.

    Args:
        samples: The samples.
        fingerprint: A name for their images.
        size: Height and width of images whose samples have no bucket.
        wanted: Names of the fields that are read; `image` among them means that images are decoded.
    """

    plural = "validation samples"

    def __init__(self, samples: ShardDataset, fingerprint: str, size: Size, wanted: Iterable[str]) -> None:
        self.samples = samples
        self.fingerprint = f"samples {sorted(wanted)} {fingerprint}"
        self.size = size
        self.image = "image" in wanted
        self.period = len(samples)
        self.wanted = min(self.period, 5000)
        self._order = evaluation_order(len(samples))

    def fields(self, numbers: Sequence[int]) -> Fields:
        """See `OpenConditions.fields`."""
        fields = self.samples.whole_fields([self._sample(number) for number in numbers], image=self.image)
        return {**fields, "geometry": whole_geometry(self.size_of(numbers[0]), len(numbers))}

    def check(self, readers: Sequence[Reader], count: int) -> None:
        """See `OpenConditions.check`."""
        for reader in readers:
            check_used(reader, self.samples, [self._sample(number) for number in range(min(count, self.period))])

    def size_of(self, number: int) -> Size:
        """See `OpenConditions.size_of`."""
        return self.samples.size_of(self._sample(number)) or self.size

    def _sample(self, number: int) -> int:
        return int(self._order[number % self.period])


class ClassConditions(Conditions):
    """Image i is of class i modulo the number of classes, so that all classes are shown equally often.

    Args:
        count: Number of classes; None: all that the model knows.
    """

    def __init__(self, count: int | None = None) -> None:
        check("conditions.count", count, Optional(COUNT, "all that the model knows"))
        self.count = count

    def open(
        self, readers: Sequence[Reader], data: Callable[[], DataModule], *, size: Size, inputs: Iterable[str]
    ) -> OpenConditions:
        """See `Conditions.open`."""
        _check_given(readers, {"label"}, inputs, "conditions=classes")
        known = min(
            (int(one.most) + 1 for reader in readers for one in reader.ranges if one.field == "label"), default=None
        )
        if known is None:
            raise ValueError("conditions=classes needs a model conditioned on classes; choose conditions=samples")
        if self.count is not None and self.count > known:
            raise ValueError(f"conditions.count={self.count} classes cannot be: the model knows {known}")
        return _OpenClasses(self.count or known, size)


class _OpenClasses(OpenConditions):
    def __init__(self, count: int, size: Size) -> None:
        self.size = size
        self.period = count
        self.fingerprint = f"classes {count}"

    def fields(self, numbers: Sequence[int]) -> Fields:
        labels = torch.tensor([number % self.period for number in numbers])
        return {"label": labels, "geometry": whole_geometry(self.size, len(numbers))}


class CaptionConditions(Conditions):
    """Image i is made for the caption in row i of a table.

    Args:
        file: A file of tab-separated columns: id, image_id, caption.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def open(
        self, readers: Sequence[Reader], data: Callable[[], DataModule], *, size: Size, inputs: Iterable[str]
    ) -> OpenConditions:
        """See `Conditions.open`."""
        _check_given(readers, {"caption"}, inputs, "conditions=captions")
        return _OpenCaptions(read_caption_table(self.file), size)


class _OpenCaptions(OpenConditions):
    plural = "captions"

    def __init__(self, rows: Sequence[CaptionRow], size: Size) -> None:
        self.rows = rows
        self.size = size
        self.period = self.wanted = len(rows)
        self.fingerprint = f"captions {_digest(row.caption for row in rows)}"

    def fields(self, numbers: Sequence[int]) -> Fields:
        captions = [self.rows[number % self.period].caption for number in numbers]
        return {"caption": captions, "geometry": whole_geometry(self.size, len(numbers))}


class NoConditions(Conditions):
    """No conditions: nothing is said about any image."""

    def open(
        self, readers: Sequence[Reader], data: Callable[[], DataModule], *, size: Size, inputs: Iterable[str]
    ) -> OpenConditions:
        """See `Conditions.open`."""
        _check_given(readers, set(), inputs, "conditions=none")
        return _OpenNothing(size)


class _OpenNothing(OpenConditions):
    def __init__(self, size: Size) -> None:
        self.size = size
        self.period = 1
        self.fingerprint = "nothing"

    def fields(self, numbers: Sequence[int]) -> Fields:
        return {"geometry": whole_geometry(self.size, len(numbers))}


def _check_given(readers: Sequence[Reader], given: set[str], inputs: Iterable[str], choice: str) -> None:
    """Check that conditions say all that a model, its guidance and metrics read.

    Raises:
        ValueError: If they do not.
    """
    needed = {*fields_of(readers), *inputs}
    if missing := sorted(needed - given - {"geometry"}):
        raise ValueError(
            f"{choice} does not say {' and '.join(missing)}, which the model, its guidance or a metric reads; choose "
            "conditions=samples, and give the data: data.val='shards/val-*.tar'"
        )


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]
