"""The files in a tar, read from front to back, from a file or a pipe: what each is, and where damage begins."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, Protocol

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
"""First two bytes of a file -> how it is compressed."""

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""First two bytes -> what unpacks a compressed file while it is read."""

CHUNK = 2**20
"""So many bytes are read at once; a multiple of tar's block size."""

DAMAGED = "shard damaged or without an end"
CUT_OFF = "shard cut off"
EMPTY = "empty shard file"
AFTER_END = "something else than a tar after the end of the shard"

TAR_ERRORS = (
    *(tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError, MemoryError),
    *(zlib.error, lzma.LZMAError),
)
"""What reading a broken tar, compressed or not, raises."""


class Extent(NamedTuple):
    """Where a file's bytes lie inside its shard."""

    offset: int
    size: int


ABSENT = Extent(0, -1)


class Member(NamedTuple):
    """A file in a tar; with the name "", damage to the tar itself.

    name    as it stands in the tar
    extent  where its bytes lie
    fault   why its bytes cannot be used: "symbolic link", say; "" where they can
    link    of a hard link, the name of the file that it stands for
    data    its bytes, where they have been read
    """

    name: str
    extent: Extent = ABSENT
    fault: str = ""
    link: str = ""
    data: bytes = b""


class Source(Protocol):
    """What bytes can be read from."""

    def read(self, count: int, /) -> bytes:
        """Return the next bytes, fewer than asked for where there are no more."""

    def seek(self, position: int, /) -> object:
        """Go to a place; called only where the size is known."""


class Unreadable(OSError):  # noqa: N818
    """The bytes of a shard cannot be read, whatever is in them: a server or a disk does not answer."""


class Forward:
    """A file that is read from front to back, as `tarfile` wants it.

    Args:
        source: What is read; where `size` is given, it is a file that can seek.
        size: Number of its bytes; None where nobody knows.
    """

    def __init__(self, source: Source, size: int | None = None) -> None:
        self.source = source
        self.size = size
        self.last = b""
        self._position = 0
        self._held = b""

    def tell(self) -> int:
        """Return the number of bytes before the next one."""
        return self._position

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or all where there are fewer. Raises Unreadable."""
        parts, wanted = [], count
        while wanted > 0:
            part, self._held = self._held[:wanted], self._held[wanted:]
            part = part or self._next(min(wanted, CHUNK))
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        self.last = b"".join(parts)
        self._position += len(self.last)
        return self.last

    def seek(self, position: int) -> None:
        """Go on to a later place; the end of the file may come before it. Raises OSError for an earlier one."""
        if position < self._position:
            raise OSError("a header leads back")
        if self.size is not None:
            self._held, self._position = b"", position
            self.source.seek(position)
        while self._position < position and self.read(min(position - self._position, CHUNK)):
            pass

    def peek(self, count: int) -> bytes:
        """Return the next bytes, which will be read again."""
        found = self.read(count)
        self._put_back(found)
        return found

    def skip_zeros(self) -> bool:
        """Go on to the next block that does not hold zeros alone; returns whether there is one."""
        while chunk := self.read(CHUNK):
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            if zeros < len(chunk):
                self._put_back(chunk[zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE :])
                return True
        return False

    def _put_back(self, data: bytes) -> None:
        self._held = data + self._held
        self._position -= len(data)

    def _next(self, count: int) -> bytes:
        try:
            return self.source.read(count)
        except Unreadable:
            raise
        except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise Unreadable(f"unreadable shard: {type(error).__name__}") from error


def unpacked(file: Forward) -> Forward:
    """Return a file whose bytes are those of a compressed one, or the file itself where it is not compressed."""
    opener = OPENERS.get(file.peek(2))
    return file if opener is None else Forward(opener(file))


def read_members(file: Forward) -> Iterator[Member]:
    """Yield the files of a tar in order, and its damage, with which they end. Directories are left out.

    What follows an end mark is read, too: `cat a.tar b.tar` holds the files of both. The bytes of a file can be read from
    `file` until the next one is asked for.
    """
    try:
        if not (head := file.peek(2)):
            yield Member("", fault=EMPTY)
            return
        damage = yield from _archive(file)
        if damage == DAMAGED and not file.tell() - len(file.last):
            damage = _no_tar(head)
        while not damage and file.skip_zeros():
            start = file.tell()
            damage = yield from _archive(file)
            if damage == DAMAGED and file.tell() - len(file.last) == start:
                damage = AFTER_END
    except Unreadable as error:
        damage = str(error)
    if damage:
        yield Member("", fault=damage)


def _no_tar(head: bytes) -> str:
    name = COMPRESSED.get(head)
    return "not a tar file" + (f" but {name}; unpack it" if name else "")


def _archive(file: Forward) -> Generator[Member, None, str]:
    """Files up to the next end mark; returns what is damaged, "" where nothing is."""
    end = file.tell()
    try:
        archive = tarfile.TarFile(fileobj=file, errors="surrogateescape")  # type: ignore[arg-type]
        while (found := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it holds them all
            extent = Extent(found.offset_data, found.size)
            if extent.size < 0 or extent.offset <= end:
                return DAMAGED  # a header that leads back would be read for ever
            end = extent.offset
            if found.isreg():
                end += -(-extent.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if file.size is not None and sum(extent) > file.size:
                    return CUT_OFF
            if not found.isdir():
                yield _member(found, extent)
    except Unreadable:
        raise
    except TAR_ERRORS:
        return DAMAGED
    return "" if len(file.last) == tarfile.BLOCKSIZE and not any(file.last) else DAMAGED


def _member(found: tarfile.TarInfo, extent: Extent) -> Member:
    if found.islnk():
        return Member(found.name, link=found.linkname)
    if found.issym():
        return Member(found.name, fault="symbolic link")
    if found.issparse():
        return Member(found.name, fault="sparse file")
    if found.isdev():
        return Member(found.name, fault="device or pipe")
    return Member(found.name, extent, "" if found.isreg() else "tar member of an unknown kind")
