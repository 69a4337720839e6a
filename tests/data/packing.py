"""What tests of packing share."""

import csv
import io
import tarfile

from PIL import Image

from ldm.data.pack.packer import Packer


def encoded(width=12, height=8, *, form="png", color="red", **options):
    data = io.BytesIO()
    Image.new("RGB", (width, height), color).save(data, format=form, **options)
    return data.getvalue()


def images(folder, count=10, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(encoded(color=(number, 0, 0), **options))
    return folder


def table(path, rows, columns=("file", "caption")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def captioned(folder, count=10):
    images(folder, count)
    return table(folder.parent / "captions.csv", [(f"{n:03d}.png", f"number {n}") for n in range(count)])


def pack(out, **options):
    return Packer(out, **{"workers": 1, "max_broken": 1.0, "val_share": 0.0, **options}).write()


def contents(out):
    """Key -> files by ending, of all shards in order, and "shard" -> the name of its shard."""
    samples = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, ending = member.name.split(".")
                samples.setdefault(key, {"shard": path.name})[ending] = archive.extractfile(member).read()
    return samples


def written(out):
    """All that a packing leaves, but for what belongs to the folder it is in."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def reasons(summary):
    return {reason: entry["count"] for reason, entry in summary.skipped.skipped.items()}
