"""A look at the values of samples that condition a model, before any work is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ldm.batch import Fields
from ldm.conditioner.base import Reader
from ldm.data.base import SAMPLES_LOOKED_AT
from ldm.data.dataset import ShardDataset
from ldm.data.order.batch_sampler import spread

TRAINED = "mend this sample, or leave it out: the model was trained with no others"
"""Advice where a trained model cannot take a value."""


def check_values(reader: Reader, found: Iterable[tuple[str, Fields]], split: str, *, advice: str | None = None) -> None:
    """Check those fields of samples that have a range.

    Args:
        reader: The part of a model that reads them.
        found: Key and fields of each sample (B is 1).
        split: The option that names their shards, "data.val" say.
        advice: Advice where a value is not allowed; None: the advice for training.

    Raises:
        ValueError: Where the model does not allow a value; it names the sample.
    """
    for key, fields in found:
        try:
            reader.check(fields, [key], advice=advice)
        except ValueError as error:
            raise ValueError(f"in {split}, {error}") from error


def check_used(reader: Reader, samples: ShardDataset, numbers: Sequence[int]) -> None:
    """Check the values of validation samples that will condition a trained model, of many those of some; see `check_values`.

    Args:
        reader: The part of the model that reads them.
        samples: The samples.
        numbers: The numbers of those that will condition it.
    """
    ranged = {one.field for one in reader.ranges}
    if readers := [one for one in samples.readers if one.name in ranged]:
        some = [numbers[place] for place in spread(len(numbers), SAMPLES_LOOKED_AT)]
        check_values(reader, samples.keyed_fields(dict.fromkeys(some), readers), "data.val", advice=TRAINED)
