"""The rule that groups the files of a shard into samples; everything that reads shards follows it.

A file's key is its name up to the last dot of the last part of its path, its ending is what follows, in any case. Files that
share a key belong together. An image with a .txt or .json of its own is a sample; so is a cached latent, or an array of
moments, in place of an image. Files without such a pair whose key goes on from the key of an image are extras of that
image: `a.seg.png` beside `a.png`. Those extras from which a field can be read are parts of the sample, and an image with one of
them needs no caption to be a sample. Every other image is alone: a sample where nothing but the image is needed, and else an
image without a caption. But a file that is named as a part, `a.seg.png`, is never a sample alone: its image is missing. Every
other key has no image. Of several files of one name the last one counts, as it does when a tar is unpacked.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ldm.batch import SkippedSample
from ldm.data.endings import PART_NAMES, PARTS
from ldm.data.shards.members import ABSENT, ByteRange, Forward, Member, read_members
from ldm.data.shards.names import ARRAY_ENDING, IMAGE_ENDINGS, LATENT_ENDING

PICTURES = (LATENT_ENDING, *IMAGE_ENDINGS, ARRAY_ENDING)
"""File extensions of images, latents and moments; if a key has several of them, the first of this list is read."""

ARRAY_PARTS = tuple(part for part in PART_NAMES if part.endswith(ARRAY_ENDING))
"""Ends of the names of arrays that are never moments, since a field is read from them."""

CAPTIONS = ("txt", "json")
"""File extensions of captions."""

NO_CAPTION = "no caption"
NO_IMAGE = "no image"
REPLACED = "replaced by a later file of the same name"
EXTRA = "beside an image, but nothing here asks for them"
NAMELESS = "hidden, or without an ending"
LOST_LINK = "hard link to a file that is not before it in this shard"


class Leftover(SkippedSample):
    """A file that is not read, though no sample is broken without it; it is counted apart from broken samples.

    Its `key` is the name of the file.
    """


class Sample(NamedTuple):
    """One image: its key, its shard, and where its image (or latent), .txt, .json and other parts, by ending, lie in it."""

    key: str
    shard: str
    image: ByteRange
    text: ByteRange = ABSENT
    record: ByteRange = ABSENT
    parts: Mapping[str, ByteRange] = {}


class Contents(NamedTuple):
    """The samples of a shard, and what was left out, samples or single files."""

    samples: list[Sample]
    skipped: list[SkippedSample]


class Listing(NamedTuple):
    """The contents of a shard by both forms of the rule.

    Attributes:
        paired: Where files beside the image are needed: images alone are left out.
        alone: Where nothing but the image is needed: images alone are samples, too.
    """

    paired: Contents
    alone: Contents


@dataclass
class Group:
    """The files that share a key.

    Args:
        key: The key, as it stands in the tar.
        files: Ending, in lower case -> the file.
        parts: Ending in `PARTS` -> another file of the sample.
    """

    key: str
    files: dict[str, Member] = field(default_factory=dict)
    parts: dict[str, Member] = field(default_factory=dict)

    @property
    def image(self) -> Member | None:
        """The image, latent or array of moments, if its bytes can be used."""
        return next((member for member in self._pictures if not member.fault), None)

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
        captioned = any(part and part.extent.size > 0 for part in (self.text, self.record))
        return self.image is not None and (captioned or bool(self.parts))

    @property
    def is_alone(self) -> bool:
        """True if the files are an image that no other files belong to, and it is not named as a part of another image."""
        image = self.image
        return image is not None and not self.complete and not image.name.lower().endswith(PART_NAMES)

    @property
    def unread(self) -> Iterator[Member]:
        """Files that a sample does not consist of."""
        read = [part.name for part in (self.image, self.text, self.record, *self.parts.values()) if part]
        return (member for member in self.files.values() if member.name not in read)

    @property
    def lacks(self) -> str:
        """A few words about what a key that is no sample lacks."""
        if self.image is not None:
            return NO_CAPTION
        return next((member.fault for member in self._pictures), NO_IMAGE)

    @property
    def _pictures(self) -> Iterator[Member]:
        """The files that may be the image, damaged ones among them, the preferred one first."""
        there = (self.files[ending] for ending in PICTURES if ending in self.files)
        return (member for member in there if may_be_picture(member.name))

    def _sound(self, ending: str) -> Member | None:
        """Return the file with this extension, if its bytes can be used."""
        member = self.files.get(ending)
        return None if member is None or member.fault else member


class Grouping:
    """A collector that groups the files of a shard by their keys.

    Args:
        shard: Its name, for what is counted.
        skipped: A list to which samples that are left out are added.
        parts: Endings of those other files of a sample that are wanted.
        alone: True if images alone are samples.
    """

    def __init__(
        self, shard: str, skipped: list[SkippedSample], parts: Collection[str] = PARTS, *, alone: bool = False
    ) -> None:
        self.shard = shard
        self.skipped = skipped
        self.parts = parts
        self.alone = alone
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
            if ending in PICTURES and may_be_picture(member.name):
                self.skipped.append(SkippedSample(self.shard, key, REPLACED))
            else:
                self.leave(before, REPLACED)
        group.files[ending] = member

    def leave(self, member: Member, reason: str) -> None:
        """Count a file as a leftover."""
        self.skipped.append(Leftover(self.shard, member.name, member.fault or reason))

    def samples(self, images: Container[str] = ()) -> Iterator[Group]:
        """Yield all samples among the files that were added, count everything else, and forget all files.

        Args:
            images: Keys of images among files that were forgotten before, whose extras may follow.
        """
        here = self.images
        for group in list(self.groups.values()):
            self.gather(group)
        for key, group in self.groups.items():
            if group.complete:
                yield self.hand_out(group)
            elif any(prefix in here or prefix in images for prefix in _prefixes(key)):
                for member in group.files.values():
                    self.leave(member, EXTRA)
            elif self.alone and group.is_alone:
                yield self.hand_out(group)
            else:
                lacks = NO_IMAGE if self.alone and group.image is not None else group.lacks
                self.skipped.append(SkippedSample(self.shard, group.key, lacks))
        self.groups = {}

    def gather(self, group: Group) -> Group:
        """Give the image of a group its parts, which may lie under keys that go on from its own; return the group."""
        for ending in self.parts if group.image is not None else ():
            stem, _, last = ending.rpartition(".")
            key = plain(group.key) + (f".{stem}" if stem else "")
            other = self.groups.get(key, group)
            part = other._sound(last)
            if part is None or (stem and (other is group or other.text or other.record)):
                continue
            group.parts[ending] = part
            if stem:
                del other.files[last]
                if not other.files:
                    del self.groups[key]
        return group

    @property
    def images(self) -> set[str]:
        """The keys of the images among the files that were added."""
        return {key for key, group in self.groups.items() if group.image is not None}

    def may_be_read(self, key: str, images: Container[str]) -> bool:
        """Return True if a group that has no files of its own beside its image may still be read.

        It may turn out to be a part of another image, or an image alone.

        Args:
            key: Key of the group.
            images: Keys of images among files that were forgotten before.
        """
        if any(key.endswith(f".{stem}") for ending in self.parts if (stem := ending.rpartition(".")[0])):
            return True
        here = (self.groups.get(prefix) for prefix in _prefixes(key))
        is_extra = any(group is not None and group.image is not None for group in here)
        is_extra = is_extra or any(prefix in images for prefix in _prefixes(key))
        return self.alone and self.groups[key].is_alone and not is_extra

    def hand_out(self, group: Group) -> Group:
        """Count those files of a sample that are not read, and return the sample."""
        for member in group.unread:
            self.leave(member, EXTRA)
        return group


def list_shard(shard: str) -> Listing:
    """Return all samples of a shard in the order in which they lie there, from its tar headers alone."""
    with open(shard, "rb") as file:
        members = list(_resolved(read_members(Forward(file, os.path.getsize(shard)))))
    return Listing(_contents(shard, members, alone=False), _contents(shard, members, alone=True))


def _contents(shard: str, members: Iterable[Member], *, alone: bool) -> Contents:
    """Return the samples that the members of a shard make up."""
    skipped: list[SkippedSample] = []
    grouping = Grouping(shard, skipped, alone=alone)
    for member in members:
        if member.name:
            grouping.add(member)
        else:
            skipped.append(SkippedSample(shard, "", member.fault))
    samples = []
    for group in grouping.samples():
        image, text, record = (part.extent if part else ABSENT for part in (group.image, group.text, group.record))
        parts = {ending: part.extent for ending, part in group.parts.items()}
        samples.append(Sample(group.key, shard, image, text, record, parts))
    return Contents(samples, skipped)


def _resolved(members: Iterable[Member]) -> Iterator[Member]:
    """Replace hard links by what they stand for: the file of that name that was there then."""
    found: dict[str, Member] = {}
    for member in members:
        if member.link:
            target = found.get(plain(member.link))
            member = member._replace(fault=LOST_LINK) if target is None else target._replace(name=member.name)
        found[plain(member.name)] = member
        yield member


def may_be_picture(name: str) -> bool:
    """Return False for the name of an array from which a field is read, and which is so never an array of moments."""
    return not name.lower().endswith(ARRAY_PARTS)


def split_name(name: str) -> tuple[str, str] | None:
    """Return key and ending of a file; None where it is hidden or has no ending."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.rpartition(".")
    return None if not stem or last.startswith(".") else (folder + slash + stem, ending.lower())


def plain(name: str) -> str:
    """Return a path without what tells nothing: `./a` is `a`."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def first_part(key: str) -> str:
    """Return a key up to the first dot of its last part: all keys share it that may be extras of one another."""
    folder, slash, last = key.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _prefixes(key: str) -> Iterator[str]:
    """Yield shorter keys that a key goes on from: `a.b` and `a` for `a.b.c`."""
    folder, slash, last = key.rpartition("/")
    while "." in last:
        last = last.rpartition(".")[0]
        yield folder + slash + last
