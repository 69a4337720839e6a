"""Small shards for tests."""

import io
import json
import tarfile

from PIL import Image

from ldm.data.datamodule import CaptionedImages
from ldm.data.dataset import ShardDataset
from ldm.data.fields.caption import CaptionReader
from ldm.data.icons import Icons
from ldm.data.index import Index, index_shards
from ldm.data.shards import find_shards, write_shards
from ldm.data.transforms import CaptionChoice, ImageTransform

COLORS = {"red": "#ff0000", "blue": "#0000ff", "green": "#00ff00"}
BACKGROUNDS = {"white": "#ffffff", "black": "#000000"}


def icons(folder, **options):
    settings = {
        "count": 5,
        "colors": COLORS,
        "backgrounds": BACKGROUNDS,
        "size": 16,
        "samples_per_shard": 10,
        "val_share": 0.2,
    }
    return Icons(folder, **{**settings, **options})


def captioned(folder, **options):
    data = CaptionedImages(cache=folder / "cache", **{"size": 8, **options})
    data.open()
    return data


def encoded(picture, form="png", **options):
    data = io.BytesIO()
    picture.save(data, format={"jpg": "jpeg"}.get(form, form), **options)
    return data.getvalue()


def level(number, *, size=(8, 8), form="png"):
    """An image of one gray level, by which it is known again."""
    return encoded(Image.new("RGB", size, (number % 256,) * 3), form)


def sample(key, *, form="png", number=0, size=(8, 8), **files):
    return {"__key__": key, form: level(number, size=size, form=form), **files}


def numbered(folder, counts, *, split="train", **extra):
    """Shards of so many samples each, whose keys, gray levels and captions count from 0; returns their pattern."""
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
    """A tar file of (name, bytes), in this order."""
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def opened(pattern, cache, filters=()):
    return Index(index_shards(find_shards(pattern, cache), cache), filters)


def dataset(pattern, cache, *, size=8, transform=None, caption=None, **options):
    return ShardDataset(
        opened(pattern, cache),
        transform or ImageTransform(size),
        [CaptionReader(caption or CaptionChoice())],
        **options,
    )
