"""Writing one tar shard: each image is decoded in full first, so that none is broken."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ldm.data.decode import Broken, Header, decode_image, open_image, read_header
from ldm.data.pack.files import read_file
from ldm.data.pack.parts import fit_part
from ldm.data.pack.plan import Shard, Tally, rows_of
from ldm.data.pack.row import Row
from ldm.data.values import boxes_of, label_of
from ldm.files.whole import written_whole

ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""For each format, by Pillow's name, the ending under which its bytes can be stored in a shard."""

LOOKED_AT = 16
"""The number of images that a continued packing compares with those it was begun with."""


class Job(NamedTuple):
    """Settings that all shards share.

    Attributes:
        out: Folder of the shards.
        images: Folder to which the rows' sources are relative.
        side: Length in pixels to which the shorter side of an image is reduced; None: images stay as they are.
        format: Format in which reduced images are stored, "jpg" or "png"; None: jpg for a jpg, png for any other.
    """

    out: Path
    images: Path
    side: int | None
    format: str | None

    @property
    def private(self) -> Path:
        """Return the folder of files that only a packing that goes on needs."""
        return self.out / ".pack"

    @property
    def database(self) -> Path:
        """Return the path of the database of the plan's rows."""
        return self.private / "rows.sqlite"


class Encoded(NamedTuple):
    """An image file.

    Attributes:
        data: Its bytes.
        ending: The ending that names its format, "jpg", "png" or "webp".
        width: Width in pixels, after EXIF's rotation.
        height: Height in pixels, after EXIF's rotation.
    """

    data: bytes
    ending: str
    width: int
    height: int


def read_tally(shard: Shard, job: Job) -> Tally | None:
    """Return the counts of a shard; None where it is not finished.

    Args:
        shard: The shard.
        job: Settings that all shards share.
    """
    try:
        tally = Tally(**json.loads((job.private / f"{shard.name}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    path = job.out / f"{shard.name}.tar"
    return tally if not tally.samples or (path.is_file() and path.stat().st_size == tally.size) else None


def write_shard(shard: Shard, job: Job, step: Callable[[], None]) -> None:
    """Write a shard, and then its counts, by which it is known to be finished; no shard where none of its rows is usable.

    Args:
        shard: The shard.
        job: Settings that all shards share.
        step: Function that is called after each row.
    """
    tally, draft = Tally(), job.private / f"{shard.name}.draft"
    with open(draft, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for row in rows_of(shard, job.database):
                try:
                    _add(archive, row.key, _sample(row, job))
                    tally.samples += 1
                except Broken as broken:
                    tally.skip(row.source, broken)
                step()
        _settle(file)
    if tally.samples:
        tally.size = draft.stat().st_size
        draft.replace(job.out / f"{shard.name}.tar")
    write_json(job.private / f"{shard.name}.json", asdict(tally))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a json file, which appears whole or not at all.

    Args:
        path: Path of the file.
        content: An object fit for json.
    """
    with written_whole(path) as draft, draft.open("w") as file:
        json.dump(content, file, indent=1)
        _settle(file)


def fingerprint_images(shard: Shard, job: Job) -> str:
    """Return a digest of the first images of a shard, which distinguishes them from other images of the same names.

    Args:
        shard: The shard.
        job: Settings that all shards share.
    """
    digest = hashlib.sha256()
    for row in islice(rows_of(shard, job.database), LOOKED_AT):
        try:
            data = read_file(job.images / row.source) if row.image is None else row.image
        except Broken:
            data = b""
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def fit(data: bytes, side: int | None, form: str | None) -> Encoded:
    """Return an image file as it is stored: its own bytes, unless it must become smaller or another format.

    Args:
        data: Bytes of an image file of any format that is read.
        side: Length in pixels to which the shorter side is reduced; None: the size stays.
        form: Format of a reduced image, "jpg" or "png"; None: jpg for a jpg, png for any other.

    Raises:
        Broken: Where the image cannot be decoded.
    """
    ending = ENDINGS.get(open_image(data).format or "")
    picture = decode_image(data, side=2 * side if side else None)  # reduced at most to twice the side without a filter
    wanted = ending or "png"
    if side is not None:
        wanted = form or ("jpg" if ending == "jpg" else "png")
    shorter = min(picture.size)
    if side is None or shorter <= side:
        if ending == wanted:
            return Encoded(data, ending, *picture.size)
    else:
        width, height = (round(length * side / shorter) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return Encoded(_encode(picture, wanted), wanted, *picture.size)


def _encode(picture: Image.Image, ending: str) -> bytes:
    file = io.BytesIO()
    options = {"quality": 95} if ending == "jpg" else {}
    picture.save(file, format="jpeg" if ending == "jpg" else "png", icc_profile=None, **options)
    return file.getvalue()


def _sample(row: Row, job: Job) -> dict[str, bytes]:
    """Return the files of a sample by ending; raise Broken where its image, or another file, cannot be used."""
    data = read_file(job.images / row.source) if row.image is None else row.image
    image = fit(data, job.side, job.format)
    size = {"width": image.width, "height": image.height}
    captions = {} if not row.captions else {"caption": row.captions if len(row.captions) > 1 else row.captions[0]}
    record = {**captions, **row.record, "source": row.source, **size}
    files = {image.ending: image.data, "json": json.dumps(record).encode()}
    if row.captions:
        files["txt"] = row.captions[0].encode()
    else:
        _check_conditions(row)
    if row.parts:
        original, stored = read_header(data), Header(image.width, image.height)
        for ending, path in row.parts.items():
            files[ending] = fit_part(ending, read_file(job.images / path), original, stored)
    return files


def _check_conditions(row: Row) -> None:
    """Raise Broken where a label, or boxes, that stand in the place of a caption cannot be read in training."""
    if "label" in row.fields and "cls" not in row.parts:
        label_of(row.record["label"])
    if "boxes" in row.fields:
        boxes_of(row.record["boxes"])


def _add(archive: tarfile.TarFile, key: str, files: dict[str, bytes]) -> None:
    """Add files to a tar as webdataset's TarWriter does, which would import torch in each worker."""
    for ending, data in sorted(files.items()):
        member = tarfile.TarInfo(f"{key}.{ending}")
        member.size, member.mode = len(data), 0o444
        member.uname = member.gname = "ldm"
        archive.addfile(member, io.BytesIO(data))


def _settle(file: io.IOBase) -> None:
    file.flush()
    os.fsync(file.fileno())
