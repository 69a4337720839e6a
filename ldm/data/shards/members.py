"""Reading the members (files) of a tar archive from beginning to end, from a file or a pipe.

Each member comes with its kind, and damage to the archive comes as a member, too.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, Protocol

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}
"""The first two bytes of a compressed file -> the name of the compression."""

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
"""The first two bytes of a compressed file -> a function that decompresses it while it is read."""

CHUNK = 2**20
"""The number of bytes that are read at once; a multiple of the block size of tar."""

DAMAGED = "shard damaged or without an end"
CUT_OFF = "shard cut off"
EMPTY = "empty shard file"
AFTER_END = "something else than a tar after the end of the shard"

TAR_ERRORS = (
    *(tarfile.TarError, OSError, ValueError, EOFError, OverflowError, RecursionError, MemoryError),
    *(zlib.error, lzma.LZMAError),
)
"""The errors that reading a broken tar archive raises, compressed or not."""


class ByteRange(NamedTuple):
    """The range of bytes of a file inside its shard.

    Attributes:
        offset: The position of the first byte.
        size: The number of bytes; -1 for a file that is absent.
    """

    offset: int
    size: int


ABSENT = ByteRange(0, -1)
"""The byte range of a file that a sample does not have."""


class Member(NamedTuple):
    """A member of a tar archive; with the name "", damage to the archive itself.

    Attributes:
        name: The name as it stands in the archive.
        extent: The range of its bytes.
        fault: Why its bytes cannot be used, "symbolic link" for example; "" if they can.
        link: For a hard link, the name of its target.
        data: Its bytes, if they have been read.
    """

    name: str
    extent: ByteRange = ABSENT
    fault: str = ""
    link: str = ""
    data: bytes = b""


class ByteSource(Protocol):
    """An object that bytes can be read from."""

    def read(self, count: int, /) -> bytes:
        """Return the next `count` bytes, or fewer if there are no more."""

    def seek(self, position: int, /) -> object:
        """Go to a position; called only if the size is known."""


class Unreadable(OSError):  # noqa: N818
    """The bytes of a shard cannot be read, whatever they are: a server or a disk does not answer, for example."""


class Forward:
    """A file that is read from beginning to end, with the methods that `tarfile` needs.

    Args:
        source: The object to read from; if `size` is given, it must be able to seek.
        size: The number of its bytes; None if that is not known.
    """

    def __init__(self, source: ByteSource, size: int | None = None) -> None:
        self.source = source
        self.size = size
        self.last = b""
        self._position = 0
        self._held = b""

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or all that are left if there are fewer.

        Raises:
            Unreadable: If the source cannot be read.
        """
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
        """Go forward to a position; the file may end before it.

        Raises:
            OSError: If the position lies before the present one.
            Unreadable: If the source cannot be read.
        """
        if position < self._position:
            raise OSError("a header leads back")
        if self.size is not None:
            self._held, self._position = b"", position
            self.source.seek(position)
        while self._position < position and self.read(min(position - self._position, CHUNK)):
            pass

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes without going forward."""
        found = self.read(count)
        self._put_back(found)
        return found

    def skip_zeros(self) -> bool:
        """Go forward to the next block that does not consist of zeros.

        Returns:
            Whether there is such a block.
        """
        while chunk := self.read(CHUNK):
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            if zeros < len(chunk):
                self._put_back(chunk[zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE :])
                return True
        return False

    def _put_back(self, data: bytes) -> None:
        """Go back by the length of `data`, which will be read again."""
        self._held = data + self._held
        self._position -= len(data)

    def _next(self, count: int) -> bytes:
        """Read from the source; raise `Unreadable` for any of its errors."""
        try:
            return self.source.read(count)
        except Unreadable:
            raise
        except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise Unreadable(f"unreadable shard: {type(error).__name__}") from error


def unpacked(file: Forward) -> Forward:
    """Return a file with the decompressed bytes of a compressed one, or the file itself if it is not compressed."""
    opener = OPENERS.get(file.peek(2))
    return file if opener is None else Forward(opener(file))


def read_members(file: Forward) -> Iterator[Member]:
    """Yield the members of a tar archive in order, without directories; damage is yielded as the last one.

    Archives that follow the end mark are read, too: `cat a.tar b.tar` has the members of both. The bytes of a member
    can be read from `file` until the next member is asked for.
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
    """Describe a file that begins with these two bytes and is not a tar archive."""
    name = COMPRESSED.get(head)
    return "not a tar file" + (f" but {name}; unpack it" if name else "")


def _archive(file: Forward) -> Generator[Member, None, str]:
    """Yield the members up to the next end mark.

    Returns:
        A description of the damage; "" if there is none.
    """
    end = file.tell()
    try:
        archive = tarfile.TarFile(fileobj=file, errors="surrogateescape")  # type: ignore[arg-type]
        while (found := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all members in memory
            extent = ByteRange(found.offset_data, found.size)
            if extent.size < 0 or extent.offset <= end:
                return DAMAGED  # a header that points backwards would be read for ever
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


def _member(found: tarfile.TarInfo, extent: ByteRange) -> Member:
    """Turn a header of `tarfile` into a `Member`."""
    if found.islnk():
        return Member(found.name, link=found.linkname)
    if found.issym():
        return Member(found.name, fault="symbolic link")
    if found.issparse():
        return Member(found.name, fault="sparse file")
    if found.isdev():
        return Member(found.name, fault="device or pipe")
    return Member(found.name, extent, "" if found.isreg() else "tar member of an unknown kind")
