"""Latent moments of all training images, held in memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from ldm.batch import Batch
from ldm.data.dataset import Item, ShardDataset
from ldm.data.order.shuffle import SampleRef


class MomentsDataset(Dataset[Item]):
    """Samples held in memory with their latent moments.

    What is chosen anew in each epoch, like one of several captions, is still read from the shards.

    Args:
        batches: All of a data set in order, with `moments` instead of images, and the `number` of each sample that was read.
        source: Where the samples come from.
    """

    def __init__(self, batches: Sequence[Batch], source: ShardDataset) -> None:
        self.source = source
        self.key = [key for batch in batches for key in batch.key]
        self.fields = {name: [row for batch in batches for row in batch.fields[name]] for name in batches[0].fields}
        self.numbers = [int(number) for number in self.fields.pop("number")]
        self.varies = self.fields.pop("varies")

    def __len__(self) -> int:
        return len(self.key)

    def __getitem__(self, draw: SampleRef) -> Item:
        place = draw.number
        fields = {name: rows[place] for name, rows in self.fields.items()}
        if self.varies[place]:
            fields |= self.source.vary(SampleRef(draw.epoch, self.numbers[place]))
        return Item(self.key[place], fields)


class Numbered(Dataset[Item]):
    """A data set in which the fields of a sample also say its `number`, and whether it `varies` from epoch to epoch.

    Args:
        source: The samples.
    """

    def __init__(self, source: ShardDataset) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: SampleRef) -> Item:
        number, item = self.source.find(draw)
        varies = bool(self.source.vary(SampleRef(0, number)))
        return item._replace(fields={**item.fields, "number": number, "varies": varies})
