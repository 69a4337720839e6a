"""The plan of a packing: a database of all usable rows, in the order of their digests, cut into shards.

The form of the database is known in this file alone.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ldm.data.decode import Broken
from ldm.data.pack.row import Found, OtherFile, Row

FIRST = 3
"""The number of rows that are named for each reason."""

USUAL_FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Fractions for validation that can be taken or advised."""

ENOUGH, MOST = 16, 0.2
"""The number of rows that is enough for validation, and the largest fraction taken to reach it."""


@dataclass
class Tally:
    """Counts of samples that were packed and of rows that were skipped.

    Args:
        samples: Number of samples that were written.
        size: Size of the shards, in bytes.
        skipped: For each reason, {"count": how many, "first": the names of the first ones}.
    """

    samples: int = 0
    size: int = 0
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def broken(self) -> int:
        """Return the number of rows that were skipped."""
        return sum(entry["count"] for entry in self.skipped.values())

    def skip(self, where: str, broken: Broken) -> None:
        """Count a row that cannot be used.

        Args:
            where: Place of the row.
            broken: Why it cannot be used.
        """
        self.count(broken.reason, f"{where}: {broken.detail}" if broken.detail else where)

    def count(self, reason: str, name: str) -> None:
        """Count something under a reason.

        Args:
            reason: The reason.
            name: Name of the thing, given where it is one of the first.
        """
        self._add(reason, 1, [name.encode("utf-8", "replace").decode()])

    def add(self, other: Tally) -> None:
        """Add other counts to these."""
        self.samples += other.samples
        self.size += other.size
        for reason, entry in other.skipped.items():
            self._add(reason, entry["count"], entry["first"])

    def _add(self, reason: str, count: int, first: list[str]) -> None:
        entry = self.skipped.setdefault(reason, {"count": 0, "first": []})
        entry["count"] += count
        entry["first"] = (entry["first"] + first)[:FIRST]


class Shard(NamedTuple):
    """A range of the rows that become one shard.

    Attributes:
        name: Name of the shard, without `.tar`.
        first: Digest of the first row.
        last: Digest of the last row.
        rows: Number of rows.
    """

    name: str
    first: bytes
    last: bytes
    rows: int


class Plan(NamedTuple):
    """The shards that will be written, and counts of the rows that are in none.

    Attributes:
        shards: The shards, in the order in which they are written.
        fingerprint: A digest of all rows, which does not depend on the order of the images.
        skipped: Counts of the rows that are in no shard.
        others: Counts, by kind, of files that are no rows.
        merged: Number of rows that gave their captions to another row of the same image.
        fields: Number of samples that have a field, by its name.
        several: Whether any sample has more than one caption.
    """

    shards: list[Shard]
    fingerprint: str
    skipped: Tally
    others: Tally
    merged: int
    fields: Counter[str]
    several: bool

    @property
    def stored(self) -> int:
        """Return the number of rows that are in shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def rows(self) -> int:
        """Return the number of rows that were read."""
        return self.stored + self.skipped.broken + self.merged


def make_plan(
    rows: Iterable[Found], database: Path, *, val_fraction: float | None, val_max: int | None, samples_per_shard: int
) -> Plan:
    """Write rows into a database and cut them into shards.

    Rows of the same image become one. A row's place in the order depends on the sha256 of its key alone.

    Args:
        rows: Places and rows, or why they cannot be used, in any order.
        database: Path of the database; a file that is there is deleted.
        val_fraction: Fraction of the rows, those with the smallest digests, that are for validation, in [0, 1); None: a
            hundredth, and more of so few rows that this would not be enough.
        val_max: The greatest number of rows for validation; None: any.
        samples_per_shard: Rows of a shard.
    """
    database.unlink(missing_ok=True)
    with closing(sqlite3.connect(f"{database.as_uri()}?nolock=1", uri=True)) as connection:
        table, skipped, others = _Table(connection), Tally(), Tally()
        for where, row in rows:
            if isinstance(row, OtherFile):
                others.count(row.kind, where)
                continue
            broken = row if isinstance(row, Broken) else table.add(row)
            if broken is not None:
                skipped.skip(where, broken)
        connection.commit()
        fraction = _usual_fraction(connection) if val_fraction is None else val_fraction
        shards = list(_cut(connection, fraction, val_max, samples_per_shard))
    return Plan(shards, f"{table.total % 2**256:064x}"[:16], skipped, others, table.merged, table.fields, table.several)


def fraction_for_validation(database: Path) -> float | None:
    """Return the least usual fraction by which some rows, but not all, are for validation; None where none does.

    Args:
        database: Path of the database that `make_plan` wrote.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?immutable=1", uri=True)) as connection:
        return next(iter(_useful_fractions(connection)), None)


def rows_of(shard: Shard, database: Path) -> Iterator[Row]:
    """Yield the rows of a shard in order.

    Args:
        shard: The shard.
        database: Path of the database that `make_plan` wrote.
    """
    query = "SELECT digest, content, image FROM rows WHERE digest BETWEEN ? AND ? ORDER BY digest"
    with closing(sqlite3.connect(f"{database.as_uri()}?immutable=1", uri=True)) as connection:
        for digest, content, image in connection.execute(query, (shard.first, shard.last)):
            source, captions, record, parts = [*json.loads(content), {}][:4]
            more = connection.execute(
                "SELECT captions FROM more WHERE digest = ? ORDER BY number", (digest,)
            ).fetchall()
            if more:
                captions = list(dict.fromkeys([*captions, *(text for (texts,) in more for text in json.loads(texts))]))
            yield Row(source, captions, record, image, parts)


class _Table:
    """The table of rows in the database: the first row of each image, and the captions of the rows that followed it.

    Args:
        connection: Connection to an empty database.

    Attributes:
        total: Sum of the rows' digests, as numbers.
        merged: Number of rows that followed another row of their image.
        fields: Number of images that have a field, by its name.
        several: Whether any image may have more than one caption.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.total = 0
        self.merged = 0
        self.fields = Counter[str]()
        self.several = False
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE rows (digest BLOB UNIQUE, content TEXT, image BLOB)")
        connection.execute(
            "CREATE TABLE more (digest BLOB, number INTEGER, captions TEXT, PRIMARY KEY (digest, number))"
        )

    def add(self, row: Row) -> Broken | None:
        """Add a row; return why where it cannot be added, else None."""
        digest = hashlib.sha256(row.key.encode()).digest()
        content = json.dumps([row.source, row.captions, row.record, *([dict(row.parts)] if row.parts else [])])
        done = self.connection.execute("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", (digest, content, row.image))
        number = 0
        self.fields.update(row.fields if done.rowcount else ())
        if not done.rowcount:
            query = "SELECT content, image FROM rows WHERE digest = ?"
            first, image = self.connection.execute(query, (digest,)).fetchone()
            if json.loads(first)[0] != row.source or image != row.image:
                return Broken("duplicate key", row.key)
            number = self._add_captions(digest, row.captions)
        self.several = self.several or number > 0 or len(row.captions) > 1
        self.merged += number > 0
        parts = [content.encode(), hashlib.sha256(row.image or b"").digest(), str(number or "").encode()]
        self.total += int.from_bytes(hashlib.sha256(b"".join(parts)).digest(), "big")
        return None

    def _add_captions(self, digest: bytes, captions: list[str]) -> int:
        """Add captions behind those of an image; return how many rows have added some, with this one."""
        query = "SELECT COALESCE(MAX(number), 0) + 1 FROM more WHERE digest = ?"
        number: int = self.connection.execute(query, (digest,)).fetchone()[0]
        self.connection.execute("INSERT INTO more VALUES (?, ?, ?)", (digest, number, json.dumps(captions)))
        return number


def _cut(
    connection: sqlite3.Connection, val_fraction: float, val_max: int | None, samples_per_shard: int
) -> Iterator[Shard]:
    """Yield the training shards, then those of validation."""
    border = _border(val_fraction)
    if val_max is not None:
        query = "SELECT digest FROM rows WHERE digest < ? ORDER BY digest LIMIT 1 OFFSET ?"
        (border,) = connection.execute(query, (border, val_max)).fetchone() or (border,)
    for split, comparison in (("train", ">="), ("val", "<")):
        digests = connection.execute(f"SELECT digest FROM rows WHERE digest {comparison} ? ORDER BY digest", (border,))
        number = 0
        while part := digests.fetchmany(samples_per_shard):
            yield Shard(f"{split}-{number:06d}", part[0][0], part[-1][0], len(part))
            number += 1


def _useful_fractions(connection: sqlite3.Connection) -> dict[float, int]:
    """Return those of the usual fractions by which some rows, but not all, are for validation, and how many each gives."""
    (rows,) = connection.execute("SELECT COUNT(*) FROM rows").fetchone()
    query = "SELECT COUNT(*) FROM rows WHERE digest < ?"
    counts = {one: connection.execute(query, (_border(one),)).fetchone()[0] for one in USUAL_FRACTIONS}
    return {fraction: count for fraction, count in counts.items() if 0 < count < rows}


def _usual_fraction(connection: sqlite3.Connection) -> float:
    """Return the least useful fraction that gives enough rows for validation, or else as many as are taken; 0 where none does."""
    useful = _useful_fractions(connection)
    small = [fraction for fraction in useful if fraction <= MOST]
    enough = [fraction for fraction in small if useful[fraction] >= ENOUGH]
    return next(iter([*enough, *reversed(small), *useful]), 0.0)


def _border(fraction: float) -> bytes:
    """Return the digest below which the given fraction of all digests lies."""
    return min(int(fraction * 2**64), 2**64 - 1).to_bytes(8, "big")
