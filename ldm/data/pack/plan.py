"""What will be packed: all usable rows on disk in the order of their digests, cut into shards. Alone knows how they lie."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ldm.data.decode import Broken
from ldm.data.pack.captions import Row

FIRST = 3
"""So many of each reason are named."""


@dataclass
class Tally:
    """Counts of what was packed.

    samples  written
    size     of the shard, in bytes
    skipped  reason -> {"count": how many, "first": the first ones}
    """

    samples: int = 0
    size: int = 0
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def broken(self) -> int:
        """How many rows were skipped."""
        return sum(entry["count"] for entry in self.skipped.values())

    def skip(self, where: str, broken: Broken) -> None:
        """Count a row that cannot be used."""
        name = f"{where}: {broken.detail}" if broken.detail else where
        self._add(broken.reason, 1, [name.encode("utf-8", "replace").decode()])

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
    """A range of the rows, from the first to the last digest, and the name of the shard that they become."""

    name: str
    first: bytes
    last: bytes
    rows: int


class Plan(NamedTuple):
    """What will be packed.

    shards       in the order in which they are written
    fingerprint  of the list of rows, in whatever order they came
    skipped      rows that are in no shard
    """

    shards: list[Shard]
    fingerprint: str
    skipped: Tally

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(shard.rows for shard in self.shards) + self.skipped.broken


def make_plan(
    rows: Iterable[tuple[str, Row | Broken]], database: Path, *, val_share: float, samples_per_shard: int
) -> Plan:
    """Write rows into a database and cut them into shards.

    A row's place in the order, and whether it is for validation, depend on the sha256 of its key alone.

    val_share  share of the rows with the smallest digests, which are for validation
    """
    database.unlink(missing_ok=True)
    with closing(sqlite3.connect(f"{database.as_uri()}?nolock=1", uri=True)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE rows (digest BLOB UNIQUE, content TEXT, image BLOB)")
        skipped, total = Tally(), 0
        for where, row in rows:
            reason = row if isinstance(row, Broken) else _insert(connection, row)
            if isinstance(reason, Broken):
                skipped.skip(where, reason)
            else:
                total += reason
        connection.commit()
        shards = list(_cut(connection, val_share, samples_per_shard))
    return Plan(shards, f"{total % 2**256:064x}"[:16], skipped)


def rows_of(shard: Shard, database: Path) -> Iterator[Row]:
    """The rows of a shard in order."""
    query = "SELECT content, image FROM rows WHERE digest BETWEEN ? AND ? ORDER BY digest"
    with closing(sqlite3.connect(f"{database.as_uri()}?immutable=1", uri=True)) as connection:
        for content, image in connection.execute(query, (shard.first, shard.last)):
            source, captions, record = json.loads(content)
            yield Row(source, captions, record, image)


def _insert(connection: sqlite3.Connection, row: Row) -> int | Broken:
    """Add a row and return a number that stands for it, or why it is not wanted."""
    digest = hashlib.sha256(row.key.encode()).digest()
    content = json.dumps([row.source, row.captions, row.record])
    done = connection.execute("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", (digest, content, row.image))
    if not done.rowcount:
        return Broken("duplicate key", row.key)
    image = hashlib.sha256(row.image or b"").digest()
    return int.from_bytes(hashlib.sha256(content.encode() + image).digest(), "big")


def _cut(connection: sqlite3.Connection, val_share: float, samples_per_shard: int) -> Iterator[Shard]:
    """The training shards, then those of validation."""
    border = min(int(val_share * 2**64), 2**64 - 1).to_bytes(8, "big")
    for split, comparison in (("train", ">="), ("val", "<")):
        digests = connection.execute(f"SELECT digest FROM rows WHERE digest {comparison} ? ORDER BY digest", (border,))
        number = 0
        while part := digests.fetchmany(samples_per_shard):
            yield Shard(f"{split}-{number:06d}", part[0][0], part[-1][0], len(part))
            number += 1
