"""An estimate of what encoding will write, before anything is encoded."""

from __future__ import annotations

from typing import NamedTuple

from ldm.batch import list_field
from ldm.data.base import SAMPLES_LOOKED_AT
from ldm.data.dataset import ShardDataset
from ldm.data.fields.all_captions import AllCaptionsReader
from ldm.data.order.batch_sampler import spread


class SampleBytes(NamedTuple):
    """The bytes that a sample takes in a shard.

    Attributes:
        image: The latent, with that of the mirrored image where that is written.
        caption: The tokens of one caption; 0 where none are written.
        features: The features, with those of the mirrored image where they are written; 0 where none are.
    """

    image: int
    caption: int
    features: int


class CacheEstimate(NamedTuple):
    """The number of images and captions that will be encoded, and how large what is written gets.

    Attributes:
        images: The number of images.
        looked_at: The number of images whose captions were counted.
        captions: The number of different captions of all these.
        image_bytes: The size of an image's latent in a shard, with that of its mirrored image where that is written.
        caption_bytes: The size of the tokens of a caption; 0 where none are written.
        feature_bytes: What the features of an image take, with those of its mirrored image where they are written; 0 where
            none are written.
    """

    images: int
    looked_at: int
    captions: int
    image_bytes: int
    caption_bytes: int
    feature_bytes: int = 0

    @property
    def all_captions(self) -> int:
        """The number of captions of all images, as many of each as the images that were looked at have on average."""
        return round(self.images * self.captions / max(1, self.looked_at))

    @property
    def size(self) -> int:
        """Bytes of all latents, features and tokens."""
        return self.images * (self.image_bytes + self.feature_bytes) + self.all_captions * self.caption_bytes

    def __str__(self) -> str:
        latents = f"about {as_size_text(self.images * self.image_bytes)} of latents"
        if self.feature_bytes:
            latents += f" and {as_size_text(self.images * self.feature_bytes)} of features"
        if not self.caption_bytes:
            return f"{self.images:,} images, without tokens of captions: {latents}, and copies of the other files"
        guess = "" if self.looked_at == self.images else f" (counted in {self.looked_at:,} images)"
        each = self.captions / max(1, self.looked_at)
        tokens = f"{as_size_text(self.all_captions * self.caption_bytes)} of tokens"
        return (
            f"{self.images:,} images with {'about ' if guess else ''}{self.all_captions:,} captions, {each:.3g} each{guess}: "
            f"{latents} and {tokens}, and copies of the other files"
        )


def count_captions(dataset: ShardDataset, reader: AllCaptionsReader, limit: int = SAMPLES_LOOKED_AT) -> tuple[int, int]:
    """Count the captions of some samples, evenly spread over a data set.

    Args:
        dataset: The samples.
        reader: Reads all captions of a sample.
        limit: At most so many samples are looked at.

    Returns:
        The number of samples that were looked at, and of their captions.
    """
    numbers = spread(len(dataset), limit)
    found = list_field(dataset.fields_of(numbers, [reader]), reader.name)
    return len(numbers), sum(map(len, found))


def as_size_text(size: float) -> str:
    """Return a number of bytes as a text with a unit, KB, MB or GB."""
    factor, unit = next(((factor, unit) for factor, unit in ((1e9, "GB"), (1e6, "MB")) if size >= factor), (1e3, "KB"))
    return f"{size / factor:,.1f} {unit}"
