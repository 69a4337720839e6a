"""Reading one shard from beginning to end, once: from a file, a URL or a command.

Which files make up a sample is decided by the rule of the module `grouping`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import webdataset

from ldm.batch import SkippedSample
from ldm.data.endings import PARTS
from ldm.data.shards.grouping import (
    CAPTIONS,
    PICTURES,
    Group,
    Grouping,
    first_part,
    plain,
    split_name,
)
from ldm.data.shards.members import CUT_OFF, EMPTY, Forward, Member, Unreadable, read_members, unpacked

LATE = "after its sample, which a stream has passed on"
"""Reason for a file that comes after its sample has been yielded."""
PASSED_LINK = "hard link to a file that a stream has passed"
"""Reason for a hard link, whose target cannot be read again."""


class RawSample(NamedTuple):
    """The bytes of a sample's files.

    Attributes:
        key: Key of the sample.
        shard: The shard in which it lies.
        image: The image, or cached latent.
        text: The .txt; None where there is none.
        record: The .json; None where there is none.
        parts: Its other files, by ending.
    """

    key: str
    shard: str
    image: bytes
    text: bytes | None
    record: bytes | None
    parts: dict[str, bytes]


class ShardReader:
    """A reader of the samples of one shard that keeps only those in memory whose files are being read.

    The files of a sample must stand together in the shard, and only extras of the same image may lie between them. A
    file that comes later is counted as a leftover, because its sample has already been yielded. An image alone is kept in
    memory until a name follows that differs before its first dot: only then it is known to be no extra.

    Args:
        shard: A path, a URL or a command; it may be compressed (gzip, bzip2, xz).
        skipped: A list to which samples that are left out are added.
        parts: Endings of the other files that are read.
        alone: True if images alone are samples.
    """

    def __init__(
        self, shard: str, skipped: list[SkippedSample], parts: Collection[str] = (), *, alone: bool = False
    ) -> None:
        self.shard = shard
        self.skipped = skipped
        self.grouping = Grouping(shard, skipped, [ending for ending in PARTS if ending in parts], alone=alone)
        self.endings = {*PICTURES, *CAPTIONS, *(ending.rpartition(".")[2] for ending in self.grouping.parts)}
        self.closed: set[str] = set()
        self.images: set[str] = set()

    def __iter__(self) -> Iterator[RawSample]:
        """Yield the samples in the order of the shard."""
        with ExitStack() as opened:
            yield from self._samples(opened)

    def _samples(self, opened: ExitStack) -> Iterator[RawSample]:
        try:
            source = webdataset.gopen(self.shard)
            # a command's own `read` loses the bytes that came before it failed
            stream = getattr(source, "stream", source)
            opened.callback(stream.close)
            file = unpacked(Forward(stream))
            for member in read_members(file):
                if not member.name:
                    if member.fault == EMPTY:
                        source.close()  # raises if a command without any output has failed
                    self._damaged(member.fault)
                    break
                yield from self._passed(member.name)
                if not self._take(member, file):
                    self._damaged(CUT_OFF)
                    break
            else:
                source.close()  # raises if a command has failed
        except Unreadable as error:
            self._damaged(str(error))
        except (OSError, ValueError) as error:
            self._damaged(f"unreadable shard: {type(error).__name__}")
        yield from self._rest()

    def _passed(self, name: str) -> Iterator[RawSample]:
        """Yield samples that are complete before a file of this name is read."""
        parts = split_name(name)
        if parts is None:
            return
        key = plain(parts[0])
        open_groups = self.grouping.groups
        if open_groups and first_part(key) != first_part(next(iter(open_groups))):
            yield from self._rest()
        for other, group in list(open_groups.items()):
            if other in self.closed or key == other or key.startswith(f"{other}."):
                continue
            self.closed.add(other)
            if self.grouping.gather(group).complete:
                del open_groups[other]
                self.images.add(other)
                yield self._raw(self.grouping.hand_out(group))
            elif not self.grouping.may_be_read(other, self.images):  # it will be counted, which needs no bytes
                group.files = {ending: member._replace(data=b"") for ending, member in group.files.items()}

    def _rest(self) -> Iterator[RawSample]:
        """Yield the samples among what is held, after which nothing is."""
        self.closed.update(self.grouping.groups)
        self.images |= self.grouping.images
        for group in self.grouping.samples(self.images):
            yield self._raw(group)
        if not self.grouping.alone:  # else an extra that comes late would be taken for an image alone
            self.images.clear()

    def _take(self, member: Member, file: Forward) -> bool:
        """Add a file to its sample, with its bytes if they are needed.

        Returns:
            False if the shard ends inside the file, else True.
        """
        parts = split_name(member.name)
        if parts is not None and plain(parts[0]) in self.closed:
            self.grouping.leave(member, LATE)
            return True
        if member.link:
            member = member._replace(fault=PASSED_LINK)
        elif not member.fault and parts is not None and parts[1] in self.endings:
            member = member._replace(data=file.read(member.extent.size))
            if len(member.data) < member.extent.size:
                return False
        self.grouping.add(member)
        return True

    def _raw(self, group: Group) -> RawSample:
        """Return the bytes of a complete sample."""
        text, record = (part.data if part else None for part in (group.text, group.record))
        parts = {ending: part.data for ending, part in group.parts.items()}
        return RawSample(group.key, self.shard, group.image.data if group.image else b"", text, record, parts)

    def _damaged(self, reason: str) -> None:
        """Record damage to the shard itself."""
        self.skipped.append(SkippedSample(self.shard, "", reason))
