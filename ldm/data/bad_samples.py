"""A counter of broken samples, which names them in the log and stops a run that has too many of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from ldm.batch import SkippedSample
from ldm.data.fields.base import FieldReader
from ldm.data.shards.dataset_index import DatasetIndex
from ldm.data.shards.grouping import Leftover
from ldm.options.rule import FRACTION, check

log = logging.getLogger(__name__)

NAMED = 10
"""The number of broken samples that are logged one by one; later, only those whose count is a power of two are logged."""

UNREADABLE = "unreadable "
"""The beginning of reasons of samples that have a field, but not as it is read."""

WORST = 5
"""The number of shards that an error message lists."""


class BadSampleCounter:
    """A counter of the samples that were read and of those among them that are broken.

    Args:
        max_broken: The largest fraction of broken samples, in [0, 1]; above it, ValueError is raised.
    """

    def __init__(self, max_broken: float) -> None:
        check("data.max_broken", max_broken, FRACTION)
        self.max_broken = max_broken
        self.reasons: Counter[str] = Counter()
        self.shards: Counter[str] = Counter()
        self.leftovers: Counter[str] = Counter()
        self.seen = 0

    def check_index(self, index: DatasetIndex) -> None:
        """Log which samples and files an index left out.

        Leftover files are logged, but are not counted as broken. A damaged shard counts as the number of samples by
        which it falls short of the average of the other shards.

        Args:
            index: The index of the data set.

        Raises:
            ValueError: If the fraction of samples that were left out is above `max_broken`.
        """
        counts: Counter[str] = Counter()
        for leftover, count in index.leftovers:
            counts[leftover.reason] += count
        for first in {leftover.reason: leftover for leftover, _ in reversed(index.leftovers)}.values():
            self._leave(first, counts[first.reason])
        skipped = index.skipped
        if not skipped:
            return
        held = sum(shard.samples for shard in index.shards)
        damaged = {skip.shard for skip in skipped if not skip.key}
        whole = [shard.samples for shard in index.shards if shard.path not in damaged]
        average = sum(whole) / len(whole) if whole else 1.0
        lost = float(sum(1 for skip in skipped if skip.key))
        lost += sum(max(0.0, average - shard.samples) for shard in index.shards if shard.path in damaged)
        report = BadSampleCounter(self.max_broken)
        for skip in skipped:
            report._name(skip)
        if lost > self.max_broken * (held + lost):
            raise report._too_many(lost, held + lost)
        log.warning("%s", report.message(lost, held + lost))

    def count(self, seen: int, skipped: Sequence[SkippedSample], samples: int | None) -> None:
        """Count the samples of a batch.

        The fraction of broken samples is taken of all samples seen so far, but of at least 1,000 (or of all samples, if
        there are fewer).

        Args:
            seen: The number of samples in the batch.
            skipped: The samples and files that were left out while the batch was made.
            samples: The number of samples in the data set; None if that is not known.

        Raises:
            ValueError: If the fraction of broken samples is above `max_broken`.
        """
        self.seen += seen
        for skip in skipped:
            if isinstance(skip, Leftover):
                self._leave(skip, 1)
            else:
                self._name(skip)
        broken, total = sum(self.reasons.values()), max(self.seen, 1000 if samples is None else min(1000, samples))
        if skipped and broken > self.max_broken * total:
            raise self._too_many(broken, total)

    def message(self, broken: float, total: float) -> str:
        """Return a text that says how many of how many samples are broken, why, and in which shards."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
        worst = ", ".join(f"{shard} ({count})" for shard, count in self.shards.most_common(WORST))
        return f"{broken:.0f} of {total:.0f} samples cannot be used ({reasons}), most of them in {worst}"

    def _too_many(self, broken: float, total: float) -> ValueError:
        """Return the error for too many broken samples."""
        return ValueError(
            f"{self.message(broken, total)}; that is more than the share data.max_broken={self.max_broken:g}: "
            "mend or leave out these shards, or raise it"
        )

    def _name(self, skip: SkippedSample) -> None:
        """Count a broken sample and log it, unless many have been logged already."""
        self.reasons[skip.reason] += 1
        self.shards[skip.shard] += 1
        count = sum(self.reasons.values())
        if count <= NAMED or count & (count - 1) == 0:
            name = f"sample {skip.key!r} in {skip.shard}" if skip.key else skip.shard
            log.warning("left out %s: %s%s", name, skip.why, "" if count <= NAMED else f" ({count} so far)")

    def _leave(self, leftover: SkippedSample, count: int) -> None:
        """Count leftover files; log the first one of each reason, and whenever their number has doubled."""
        before = self.leftovers[leftover.reason]
        self.leftovers[leftover.reason] += count
        if not before or before.bit_length() < (before + count).bit_length():
            log.warning(
                "%d file%s not read: %s; one is %r in %s",
                before + count,
                " is" if before + count == 1 else "s are",
                leftover.reason,
                leftover.key,
                leftover.shard,
            )


def missing_message(
    broken: Sequence[SkippedSample], seen: int, readers: Sequence[FieldReader], *, most: float
) -> str | None:
    """Return a message about fields that are missing in the samples that were checked before training; None where none is.

    Args:
        broken: The samples that lack a field.
        seen: The number of samples that were looked at.
        readers: Readers of the fields.
        most: The largest fraction of broken samples, in [0, 1].

    Raises:
        ValueError: Where there are more.
    """
    if not broken:
        return None
    reasons = Counter(skip.reason for skip in broken)
    message = (
        f"{len(broken)} of {seen} samples looked at have {', '.join(reasons)}, the first is {broken[0].key!r} in "
        f"{broken[0].shard}" + (f" ({broken[0].detail})" if broken[0].detail else "")
    )
    if len(broken) > most * seen:
        bad = [reason for reason in reasons if reason.startswith(UNREADABLE)]
        names = [word for reason in reasons if reason not in bad for word in reason.split()]
        advice = [reader.advice for reader in readers if reader.name in names] + ["mend them"] * bool(bad)
        raise ValueError(f"{message}; {', '.join([*advice, 'or raise data.max_broken to leave such samples out'])}")
    return f"{message}; others take their places"
