"""Images that are measured: those that a model makes, and those of a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ldm.batch import Fields, Size, of_one_size
from ldm.conditioner.in_pictures import in_pictures
from ldm.conditioner.in_words import in_words
from ldm.data.value_checks import TRAINED
from ldm.evaluate.conditions import OpenConditions
from ldm.evaluate.folder import EvaluationFolder
from ldm.evaluate.images import FolderImages, Readable
from ldm.generation.completion import known_parts
from ldm.guidance.base import Guidance
from ldm.model import LatentDiffusion
from ldm.sampler.base import Sampler


class MeasuredImages(ABC):
    """Images that are measured, by their numbers."""

    @abstractmethod
    def is_made(self, part: Sequence[int]) -> bool:
        """Return whether all images of a part are there."""

    @abstractmethod
    def make(self, part: Sequence[int]) -> None:
        """Make sure that the images of a part are there."""

    @abstractmethod
    def content_of(self, part: Sequence[int]) -> str:
        """Return a name for what the images of a part are, beside what the request says."""

    @abstractmethod
    def size_of(self, number: int) -> Size:
        """Return height and width of an image."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> Readable:
        """Return images of one size, but for broken ones."""

    @abstractmethod
    def fields(self, numbers: Sequence[int]) -> Fields:
        """Return the fields that images were made for."""

    @abstractmethod
    def condition_pictures(self, number: int) -> Tensor:
        """Return the conditions of an image that are pictures; see `ldm.conditioner.in_pictures`.

        Returns:
            Pictures of the size of the image, one below the other, `(3, K * H, W)` in [-1, 1].
        """

    @abstractmethod
    def in_words(self, number: int) -> str:
        """Return a line that describes the conditions of an image; "" where they cannot be written in words."""


class FoundImages(MeasuredImages):
    """Images of a folder.

    Args:
        images: The images.
    """

    def __init__(self, images: FolderImages) -> None:
        self.images = images

    def is_made(self, part: Sequence[int]) -> bool:
        """Return True: they are there."""
        return True

    def make(self, part: Sequence[int]) -> None:
        """Do nothing: they are there."""

    def content_of(self, part: Sequence[int]) -> str:
        """See `MeasuredImages.content_of`."""
        return self.images.content_of(part)

    def size_of(self, number: int) -> Size:
        """See `MeasuredImages.size_of`."""
        return self.images.size_of(number)

    def read(self, numbers: Sequence[int]) -> Readable:
        """See `MeasuredImages.read`."""
        return self.images.read(numbers)

    def fields(self, numbers: Sequence[int]) -> Fields:
        """See `MeasuredImages.fields`."""
        return {}

    def condition_pictures(self, number: int) -> Tensor:
        """Return no picture, since nobody knows it."""
        return torch.empty(3, 0, self.size_of(number).width)

    def in_words(self, number: int) -> str:
        """Return "", since nobody knows it."""
        return ""


class SampledImages(MeasuredImages):
    """Images that a model makes and that are kept as files.

    Args:
        model: The model.
        conditions: The conditions of the images.
        folder: Where they are kept.
        sampler: The sampler; None: the model's own.
        guidance: The guidance; None: the model's own.
        seed: Image i has the seed `seed + i`.
        batch_size: Images at once.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        conditions: OpenConditions,
        folder: EvaluationFolder,
        *,
        sampler: Sampler | None,
        guidance: Guidance | None,
        seed: int,
        batch_size: int,
    ) -> None:
        self.model = model
        self.conditions = conditions
        self.folder = folder
        self.sampler = sampler
        self.guidance = guidance
        self.seed = seed
        self.batch_size = batch_size

    def is_made(self, part: Sequence[int]) -> bool:
        """See `MeasuredImages.is_made`."""
        return self.folder.has_images(part)

    def content_of(self, part: Sequence[int]) -> str:
        """Return "", since the request says all."""
        return ""

    def make(self, part: Sequence[int]) -> None:
        """Make each batch that lacks an image anew as a whole, since rounding depends on the batch."""
        for numbers in of_one_size(part, self.size_of, self.batch_size):
            if self.is_ready(numbers):
                continue
            fields = self.conditions.fields(numbers)
            self.model.conditioner.check(fields, advice=TRAINED)
            images = self.model.sample(
                fields,
                seeds=[self.seed + number for number in numbers],
                start=known_parts(self.model.conditioner, fields),
                sampler=self.sampler,
                guidance=self.guidance,
                size=self.size_of(numbers[0]),
                batch_size=self.batch_size,
            )
            for number, image in zip(numbers, images, strict=True):
                self.keep(number, image)

    def is_ready(self, numbers: Sequence[int]) -> bool:
        """Return whether all images of a batch can be measured, so that none of them has to be made."""
        return self.folder.has_images(numbers)

    def keep(self, number: int, image: Tensor) -> None:
        """Write the file of an image, `(3, H, W)` in [-1, 1]."""
        self.folder.write_image(number, image)

    def size_of(self, number: int) -> Size:
        """See `MeasuredImages.size_of`."""
        return self.conditions.size_of(number)

    def read(self, numbers: Sequence[int]) -> Readable:
        """See `MeasuredImages.read`."""
        return Readable(torch.stack([self.folder.read_image(number) for number in numbers]), numbers)

    def fields(self, numbers: Sequence[int]) -> Fields:
        """See `MeasuredImages.fields`."""
        return self.conditions.fields(numbers)

    def condition_pictures(self, number: int) -> Tensor:
        """See `MeasuredImages.condition_pictures`."""
        return in_pictures(self.fields([number]), 1, self.model.conditioner, self.size_of(number))[0]

    def in_words(self, number: int) -> str:
        """See `MeasuredImages.in_words`."""
        return in_words(self.fields([number]), 1, self.model.conditioner)[0]


class UnroundedImages(SampledImages):
    """Images that a model makes, measured as they come from it: their files have them rounded to 8 bits.

    The images of one part are held in memory. They are made anew where they are measured again, for example by another metric.
    The options are those of `SampledImages`.
    """

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        self._held: dict[int, Tensor] = {}

    def make(self, part: Sequence[int]) -> None:
        """Make all images of a part anew, and hold them instead of the images of another part."""
        self._held = {}
        super().make(part)

    def is_ready(self, numbers: Sequence[int]) -> bool:
        """Return False: what files have is not what is measured."""
        return False

    def keep(self, number: int, image: Tensor) -> None:
        """Hold an image, and write its file."""
        self._held[number] = image.clamp(-1.0, 1.0)
        super().keep(number, image)

    def read(self, numbers: Sequence[int]) -> Readable:
        """Return images that are held; where one is not, what their files have."""
        if not self._held.keys() >= set(numbers):
            return super().read(numbers)
        return Readable(torch.stack([self._held[number] for number in numbers]), numbers)
