"""Write small shards, open them, and read batches from them, for tests of the data.

Images are distinguished by their gray level, which is the number of the sample.
"""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import ShardDataset
from ldm.data.fields.caption import CaptionReader
from ldm.data.shards.dataset_index import DatasetIndex, index_shards
from ldm.data.shards.names import find_shards, write_shards
from ldm.data.sources.icons import Icons
from ldm.data.transforms import CaptionChoice, ImageTransform
from ldm.files.picture import to_levels

COLORS = {"red": "#ff0000", "blue": "#0000ff", "green": "#00ff00"}
BACKGROUNDS = {"white": "#ffffff", "black": "#000000"}


def icons(folder, **options):
    """Return a small data set of icons; options replace its settings."""
    settings = {
        "count": 5,
        "colors": COLORS,
        "backgrounds": BACKGROUNDS,
        "size": 16,
        "samples_per_shard": 10,
        "val_fraction": 0.2,
    }
    return Icons(folder, **{**settings, **options})


def captioned(folder, **options):
    """Return an opened data module for images of 8 x 8 pixels, with its cache inside `folder`."""
    data = CaptionedImages(cache=folder / "cache", **{"size": 8, **options})
    data.open()
    return data


def encoded(picture, form="png", **options):
    """Return the bytes of a PIL image in a file format."""
    data = io.BytesIO()
    picture.save(data, format={"jpg": "jpeg"}.get(form, form), **options)
    return data.getvalue()


def level(number, *, size=(8, 8), form="png"):
    """Return the bytes of an image that has one gray level."""
    return encoded(Image.new("RGB", size, (number % 256,) * 3), form)


def sample(key, *, form="png", number=0, size=(8, 8), **files):
    """Return a sample as `write_shards` takes it: an image of one gray level, and other files by extension."""
    return {"__key__": key, form: level(number, size=size, form=form), **files}


def numbered(folder, counts, *, split="train", **extra):
    """Write one shard for each count, and return the pattern of their names.

    Keys, gray levels, captions ("caption 0") and numbers in the .json files count from 0 over all shards.
    """
    number = 0
    for shard, count in enumerate(counts):
        samples = []
        for _ in range(count):
            record = json.dumps({"number": number, "aesthetic": number / 10, "flag": number % 2 == 0}).encode()
            samples.append(
                sample(f"{number:06d}", number=number, txt=f"caption {number}".encode(), json=record, **extra)
            )
            number += 1
        write_shards(samples, folder, f"{split}-{shard:03d}", samples_per_shard=max(1, count))
    return f"{folder}/{split}-*.tar"


def write_tar(path, files):
    """Write a tar file of pairs of name and bytes, in this order, and return its path."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def opened(pattern, cache, filters=()):
    """Return the index of the shards that a pattern stands for."""
    return DatasetIndex(index_shards(find_shards(pattern, cache), cache), filters)


def keys(index):
    """Return the keys of all samples of an index, in order."""
    return [index[number].key for number in range(len(index))]


def dataset(pattern, cache, *, size=8, transform=None, caption=None, **options):
    """Return the data set of the shards that a pattern stands for, for images of 8 x 8 pixels."""
    return ShardDataset(
        opened(pattern, cache),
        transform or ImageTransform(size),
        [CaptionReader(caption or CaptionChoice())],
        **options,
    )


def read_all(data, epochs=1):
    """Return the training batches of the next epochs of a data module."""
    loader = data.train_dataloader()
    return [batch for _ in range(epochs) for batch in loader]


def fits(batch):
    """Return whether keys, captions and gray levels of a batch of `numbered` samples belong together."""
    return all(
        caption == f"caption {int(key)}" and int(image[0, 0, 0]) == int(key) % 256
        for key, caption, image in zip(batch.key, batch.fields["caption"], to_levels(batch.fields["image"]))
    )


def broken_pair(tmp_path):
    """Write a shard of forty samples, in which number 7 has half an image and number 20 has no caption; return its path."""
    files = []
    for number in range(40):
        image = encoded_noise()[:700] if number == 7 else level(number)
        files += [
            (f"{number:06d}.png", image),
            (f"{number:06d}.txt", b" " if number == 20 else f"caption {number}".encode()),
        ]
    return write_tar(tmp_path / "train.tar", files)


def encoded_noise():
    """Return the bytes of an image of noise; they are more than 700."""
    return encoded(Image.effect_noise((64, 64), 50))


def array(values):
    """Return the bytes of a .npy file."""
    data = io.BytesIO()
    np.save(data, values, allow_pickle=False)
    return data.getvalue()


def moments_of(number, *, channels=4, side=8):
    """Return moments `(2C, side, side)` that identify a sample: small means, and log-variances of an encoder that is sure."""
    drawn = np.random.default_rng(number).standard_normal((2 * channels, side, side))
    return np.concatenate([drawn[:channels], drawn[channels:] - 12]).astype(np.float32)


def foreign(folder, counts, *, split="train", channels=4, side=8):
    """Write shards as MLPerf's, one for each count: moments (1, 2C, side, side), .txt and .json; return their pattern.

    Keys, moments and captions count from 0 over all shards.
    """
    number = 0
    for shard, count in enumerate(counts):
        samples = []
        for _ in range(count):
            moments = moments_of(number, channels=channels, side=side)[None]
            record = json.dumps({"caption": "not this", "key": f"{number:09d}"}).encode()
            samples.append(
                {
                    "__key__": f"{number:09d}",
                    "npy": array(moments),
                    "txt": f"caption {number}".encode(),
                    "json": record,
                }
            )
            number += 1
        write_shards(samples, folder, f"{split}-{shard:05d}", samples_per_shard=max(1, count))
    return f"{folder}/{split}-*.tar"
