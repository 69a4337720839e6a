"""The rule that groups the files of a shard into samples; everything that reads shards follows it.

The key of a file is its name up to the last dot of the last part of its path; its extension is what follows, in capital
or small letters. Files with the same key belong together. A key with an image (or a cached latent) and with a .txt or
.json file is a sample. Other files whose key continues the key of an image are extras of that image: `a.seg.png` beside
`a.png`. Every other image has no caption, and every other key has no image. Of several files with the same name the
last one counts, as it does when a tar archive is unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ldm.batch import Skip
from ldm.data.shards.members import ABSENT, Extent, Forward, Member, read_members
from ldm.data.shards.names import IMAGE_ENDINGS, LATENT_ENDING

PICTURES = (LATENT_ENDING, *IMAGE_ENDINGS)
"""File extensions of images and latents; if a key has several of them, the first of this list is read."""

CAPTIONS = ("txt", "json")
"""File extensions of captions."""

NO_CAPTION = "no caption"
NO_IMAGE = "no image"
REPLACED = "replaced by a later file of the same name"
EXTRA = "beside an image, but not read"
NAMELESS = "hidden, or without an ending"
LOST_LINK = "hard link to a file that is not before it in this shard"


class Leftover(Skip):
    """A file that is not read, though no sample is broken without it; it is counted apart from broken samples.

    Its `key` is the name of the file.
    """


class Sample(NamedTuple):
    """A sample with an image and a caption: its key, its shard and the byte ranges of its files in the shard.

    Args:
        key: The key of the sample.
        shard: The path of the shard.
        image: The byte range of the image, or of the cached latent.
        text: The byte range of the .txt file.
        record: The byte range of the .json file.
    """

    key: str
    shard: str
    image: Extent
    text: Extent = ABSENT
    record: Extent = ABSENT


class Contents(NamedTuple):
    """The contents of a shard.

    Args:
        samples: All samples that have an image and a caption file.
        skipped: Samples and single files that were left out.
    """

    samples: list[Sample]
    skipped: list[Skip]


@dataclass
class Group:
    """The files that share a key.

    Args:
        key: The key as it stands in the shard.
        files: Extension in small letters -> file.
    """

    key: str
    files: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> Member | None:
        """The image or latent, if its bytes can be used."""
        return next((member for ending in PICTURES if (member := self._sound(ending))), None)

    @property
    def text(self) -> Member | None:
        """The .txt file, if its bytes can be used."""
        return self._sound("txt")

    @property
    def record(self) -> Member | None:
        """The .json file, if its bytes can be used."""
        return self._sound("json")

    @property
    def complete(self) -> bool:
        """True if the files make up a sample."""
        return self.image is not None and any(part and part.extent.size > 0 for part in (self.text, self.record))

    @property
    def unread(self) -> Iterator[Member]:
        """The files that are not part of the sample."""
        read = [part.name for part in (self.image, self.text, self.record) if part]
        return (member for member in self.files.values() if member.name not in read)

    @property
    def lacks(self) -> str:
        """A few words that say why an incomplete group is no sample."""
        if self.image is not None:
            return NO_CAPTION
        faults = (self.files[ending].fault for ending in PICTURES if ending in self.files)
        return next(faults, NO_IMAGE)

    def _sound(self, ending: str) -> Member | None:
        """Return the file with this extension, if its bytes can be used."""
        member = self.files.get(ending)
        return None if member is None or member.fault else member


class Grouping:
    """A collector that groups the files of a shard by their keys.

    Args:
        shard: The name of the shard, which is written into all that is skipped.
        skipped: A list to which samples and files are appended that are left out.
    """

    def __init__(self, shard: str, skipped: list[Skip]) -> None:
        self.shard = shard
        self.skipped = skipped
        self.groups: dict[str, Group] = {}

    def add(self, member: Member) -> None:
        """Add a file to its group; an earlier file with the same name is replaced and counted."""
        name = split_name(member.name)
        if name is None:
            self.leave(member, NAMELESS)
            return
        key, ending = name
        group = self.groups.setdefault(plain(key), Group(key))
        if (before := group.files.get(ending)) is not None:
            if ending in PICTURES:
                self.skipped.append(Skip(self.shard, key, REPLACED))
            else:
                self.leave(before, REPLACED)
        group.files[ending] = member

    def leave(self, member: Member, reason: str) -> None:
        """Count a file as a leftover."""
        self.skipped.append(Leftover(self.shard, member.name, member.fault or reason))

    def samples(self, images: Container[str] = ()) -> Iterator[Group]:
        """Yield all samples among the files that were added, count everything else, and forget all files.

        Args:
            images: Keys of images that were handed out before, whose extras may follow.
        """
        here = {key for key, group in self.groups.items() if group.image is not None}
        for key, group in self.groups.items():
            if group.complete:
                yield self.hand_out(group)
            elif any(prefix in here or prefix in images for prefix in _prefixes(key)):
                for member in group.files.values():
                    self.leave(member, EXTRA)
            else:
                self.skipped.append(Skip(self.shard, group.key, group.lacks))
        self.groups = {}

    def hand_out(self, group: Group) -> Group:
        """Count those files of a sample that are not read, and return the sample."""
        for member in group.unread:
            self.leave(member, EXTRA)
        return group


def list_shard(shard: str) -> Contents:
    """Return all samples of a shard in the order of the shard, from its tar headers alone.

    Args:
        shard: The path of the shard.
    """
    skipped: list[Skip] = []
    grouping = Grouping(shard, skipped)
    with open(shard, "rb") as file:
        for member in _resolved(read_members(Forward(file, os.path.getsize(shard)))):
            if member.name:
                grouping.add(member)
            else:
                skipped.append(Skip(shard, "", member.fault))
    samples = []
    for group in grouping.samples():
        image, text, record = (part.extent if part else ABSENT for part in (group.image, group.text, group.record))
        samples.append(Sample(group.key, shard, image, text, record))
    return Contents(samples, skipped)


def _resolved(members: Iterable[Member]) -> Iterator[Member]:
    """Replace each hard link by its target: the last file of that name before the link."""
    found: dict[str, Member] = {}
    for member in members:
        if member.link:
            target = found.get(plain(member.link))
            member = member._replace(fault=LOST_LINK) if target is None else target._replace(name=member.name)
        found[plain(member.name)] = member
        yield member


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and extension of a file; None if its name is hidden or has no extension."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.rpartition(".")
    return None if not stem or last.startswith(".") else (folder + slash + stem, ending.lower())


def plain(name: str) -> str:
    """Return a path without `./` at its beginning."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def first_part(key: str) -> str:
    """Return a key up to the first dot of its last part, which is the same for an image and all its extras."""
    folder, slash, last = key.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _prefixes(key: str) -> Iterator[str]:
    """Yield the shorter keys that a key continues: `a.b` and `a` for `a.b.c`."""
    folder, slash, last = key.rpartition("/")
    while "." in last:
        last = last.rpartition(".")[0]
        yield folder + slash + last
