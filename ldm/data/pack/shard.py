"""From rows to one tar shard: every image is decoded in full on its way in."""

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
from typing import NamedTuple

from PIL import Image

from ldm.data.decode import Broken, decode_image, open_image
from ldm.data.pack.files import read_file
from ldm.data.pack.plan import Shard, Tally, rows_of
from ldm.data.pack.row import Row

ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Pillow's name of a format -> the ending under which its bytes can lie in a shard."""

LOOKED_AT = 16
"""So many images tell whether a packing goes on with the images that it was begun with."""


class Job(NamedTuple):
    """What is the same for all shards.

    out     folder of the shards
    images  folder to which the rows' sources are relative
    side    to which the shorter side of an image is reduced, in pixels; None: images stay as they are
    format  in which reduced images are stored, "jpg" or "png"; None: jpg for jpgs and png else
    """

    out: Path
    images: Path
    side: int | None
    format: str | None

    @property
    def private(self) -> Path:
        """Folder of what is needed only to go on."""
        return self.out / ".pack"

    @property
    def database(self) -> Path:
        """Where the plan's rows lie."""
        return self.private / "rows.sqlite"


class Encoded(NamedTuple):
    """An image file: its bytes, the ending that tells its format, and its size as it is seen, in pixels."""

    data: bytes
    ending: str
    width: int
    height: int


def read_tally(shard: Shard, job: Job) -> Tally | None:
    """The counts of a shard that is finished; None where it is not."""
    try:
        tally = Tally(**json.loads((job.private / f"{shard.name}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    path = job.out / f"{shard.name}.tar"
    return tally if not tally.samples or (path.is_file() and path.stat().st_size == tally.size) else None


def write_shard(shard: Shard, job: Job, step: Callable[[], None]) -> None:
    """Write a shard, and then its counts, by which it is known to be finished; none where no row of it is usable.

    step  is called after each row
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


def write_json(path: Path, content: dict) -> None:
    """Write a file that is either whole or not there."""
    draft = path.with_name(f"{path.name}.draft")
    with open(draft, "w") as file:
        json.dump(content, file, indent=1)
        _settle(file)
    draft.replace(path)


def fingerprint_images(shard: Shard, job: Job) -> str:
    """A number that tells the first images of a shard from others of the same names."""
    digest = hashlib.sha256()
    for row in islice(rows_of(shard, job.database), LOOKED_AT):
        try:
            data = read_file(job.images / row.source) if row.image is None else row.image
        except Broken:
            data = b""
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:16]


def fit(data: bytes, side: int | None, form: str | None) -> Encoded:
    """An image file as it is stored: its own bytes, unless it must become smaller or another format. Raises Broken."""
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
    """The files of a sample, by ending. Raises Broken."""
    image = fit(read_file(job.images / row.source) if row.image is None else row.image, job.side, job.format)
    caption = row.captions if len(row.captions) > 1 else row.captions[0]
    size = {"width": image.width, "height": image.height}
    record = {"caption": caption, **row.record, "source": row.source, **size}
    return {image.ending: image.data, "txt": row.captions[0].encode(), "json": json.dumps(record).encode()}


def _add(archive: tarfile.TarFile, key: str, files: dict[str, bytes]) -> None:
    """As webdataset's TarWriter does, which cannot be imported without torch, in every worker."""
    for ending, data in sorted(files.items()):
        member = tarfile.TarInfo(f"{key}.{ending}")
        member.size, member.mode = len(data), 0o444
        member.uname = member.gname = "ldm"
        archive.addfile(member, io.BytesIO(data))


def _settle(file: io.IOBase) -> None:
    file.flush()
    os.fsync(file.fileno())
