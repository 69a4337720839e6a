"""Write images and tables of captions, pack them, and read the result, for tests of packing."""

import csv
import io
import tarfile

from PIL import Image

from ldm.data.pack.packer import Packer


def encoded(width=12, height=8, *, form="png", color="red", mode="RGB", **options):
    """Return the bytes of an image of one colour."""
    data = io.BytesIO()
    Image.new(mode, (width, height), color).save(data, format=form, **options)
    return data.getvalue()


def images(folder, count=10, **options):
    """Write images of different colours, `000.png`, `001.png`, ..., and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(encoded(color=(number, 0, 0), **options))
    return folder


def table(path, rows, columns=("file", "caption")):
    """Write a CSV table and return its path."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def captioned(folder, count=10):
    """Write images, and a CSV table of their captions beside the folder; return the path of the table."""
    images(folder, count)
    return table(folder.parent / "captions.csv", [(f"{n:03d}.png", f"number {n}") for n in range(count)])


def pack(out, **options):
    """Pack images with one worker, without a validation split, whatever is broken; return the summary."""
    return Packer(out, **{"workers": 1, "max_broken": 1.0, "val_fraction": 0.0, **options}).write()


def contents(out):
    """Return the files of each sample in the shards of a folder, by extension, and under "shard" the name of its shard."""
    samples = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, ending = member.name.partition(".")
                samples.setdefault(key, {"shard": path.name})[ending] = archive.extractfile(member).read()
    return samples


def written(out):
    """Return the bytes of all files in a folder, by their paths inside it."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def reasons(summary):
    """Return the number of images that were left out for each reason."""
    return {reason: entry["count"] for reason, entry in summary.skipped.skipped.items()}
