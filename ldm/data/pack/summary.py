"""A summary of a finished packing, for people and for programs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import NamedTuple

from ldm.data.experiments import FEW, FITTING, SMALL, UNKNOWN_CLASSES, choose_experiment
from ldm.data.pack.class_folders import CLASSES_FILE
from ldm.data.pack.plan import Plan, Tally
from ldm.data.pack.shard import Job, read_tally, write_json
from ldm.data.pack.tables import READERS
from ldm.files.whole import write_whole
from ldm.options.arguments import command_name

SPLITS = ("train", "val")

SHOWN = 12
"""The largest number of classes that are named."""

NO_CAPTION = "no caption"
"""The reason for which images that lack a caption are skipped."""


class Summary(NamedTuple):
    """The counts of a packing.

    Attributes:
        out: Folder of the shards.
        rows: Number of rows that were read.
        skipped: Counts of the rows that are in no shard.
        others: Counts, by kind, of files that are no rows: they are no images, or a table does not name them.
        merged: Number of rows that gave their captions to another row of the same image.
        experiment: Name of an experiment conditioned on what most samples have.
        several: Whether there are samples with more than one caption.
        splits: Counts of each split.
        shards: Number of shards of each split.
        classes: Names of the classes, in the order of their numbers, where they are those of folders.
    """

    out: Path
    rows: int
    skipped: Tally
    others: Tally
    merged: int
    experiment: str
    several: bool
    splits: dict[str, Tally]
    shards: dict[str, int]
    classes: Sequence[str] = ()

    def save(self) -> None:
        """Write `summary.json` into the folder, and the names of classes, where there are some."""
        if self.classes:
            write_whole(self.out / CLASSES_FILE, "".join(f"{name}\n" for name in self.classes))
        splits = {
            split: {"samples": tally.samples, "shards": self.shards[split], "bytes": tally.size}
            for split, tally in self.splits.items()
        }
        counts = {"merged": self.merged, "skipped": self.skipped.skipped, "other_files": self.others.skipped}
        write_json(self.out / "summary.json", {"rows": self.rows, **splits, **counts})

    def table(self) -> str:
        """Return the counts as lines to read, with the command to type next."""
        lines = [f"{self.rows:>12,} rows"]
        for split, tally in self.splits.items():
            shards = f"{self.shards[split]:,} shard{'' if self.shards[split] == 1 else 's'}"
            lines.append(f"{tally.samples:>12,} {split} samples in {shards}, {tally.size / 1e6:,.1f} MB")
        if self.classes:
            some = ", ".join(self.classes[:SHOWN]) + (", ..." if len(self.classes) > SHOWN else "")
            lines.append(f"{len(self.classes):>12,} classes, numbered as in {self.out / CLASSES_FILE}: {some}")
        if self.merged:
            lines.append(f"{self.merged:>12,} merged into the sample of a row before, which has the same image")
        lines += [f"{self.skipped.broken:>12,} skipped", *_lines(self.skipped)]
        if self.others.broken:
            lines += [f"{self.others.broken:>12,} other files, which are no rows", *_lines(self.others)]
        if not self.shards["val"]:
            lines.append(
                "training needs validation images, too, which are not here: give other shards, or pack into another "
                "out= with a larger val_fraction"
                + (f"; classes={self.out / CLASSES_FILE} gives other folders the same numbers" if self.classes else "")
            )
        if (small := self.small_command()) is not None:
            lines.append(f"of few images, or without a GPU, a small model: {small}")
        return "\n".join([*lines, f"next: {self.next_command()}"])

    def next_command(self) -> str:
        """Return the command that trains on these shards a model conditioned on what most samples have.

        It reads all captions where samples have several.
        """
        return self._command(f"experiment={self.experiment}")

    def small_command(self) -> str | None:
        """Return the command that trains a small model on them, as on a laptop, without a download; None where they are many.

        The number of classes is left open where it is not that of folders.
        """
        if self.splits["train"].samples >= FEW or self.experiment not in SMALL:
            return None
        name, options = SMALL[self.experiment]
        if self.experiment == FITTING["label"] and not self.classes:
            options = (*options, UNKNOWN_CLASSES)
        return self._command(f"experiment=txt2img data=shards data.size=64 name={name}", *options)

    def _command(self, *before: str) -> str:
        """Return a command that trains on these shards, with some options in front of those that name them."""
        folder = escape_folder(str(self.out))
        patterns = {split: f"{folder}/{split}-*.tar" if count else "..." for split, count in self.shards.items()}
        options = [f"data.{split}={shlex.quote(pattern)}" for split, pattern in patterns.items()]
        if self.several:
            options.append("'data.caption.fields={caption:1}'")
        if self.classes and self.experiment == FITTING["label"]:
            names = shlex.quote(str(self.out / CLASSES_FILE))
            options += [f"conditioner.num_classes={len(self.classes)}", f"conditioner.names={names}"]
        return " ".join([command_name("train"), *before, *options])

    def check(self, max_broken: float, images: Path) -> None:
        """Check that enough was packed.

        Args:
            max_broken: The greatest fraction of rows that may be skipped, in [0, 1].
            images: The folder of the images.

        Raises:
            ValueError: Where there is no sample, or more rows were skipped.
        """
        reasons = "; ".join(_reasons(self.skipped))
        hint = ""
        if NO_CAPTION in self.skipped.skipped:
            hint = "; captions=none packs images that have none, and labels=folders those in a folder for each class"
            tables = [name for ending in READERS for name in self.others.skipped.get(ending, {}).get("first", ())]
            if tables:
                hint = f"; captions={shlex.quote(str(images / tables[0]))} takes captions from that table{hint}"
        if not any(self.shards.values()):
            if not self.rows and not self.others.broken:
                raise ValueError(f"there is nothing to pack: {images} holds no image, and no table names one")
            others = "; ".join(_reasons(self.others))
            raise ValueError(
                f"none of {self.rows:,} rows can be used ({reasons or 'there are none'}); nothing was packed{hint}"
                + (f"; beside them are other files ({others})" if others else "")
            )
        wanted = self.rows - self.merged
        if self.skipped.broken > max_broken * wanted:
            raise ValueError(
                f"{self.skipped.broken:,} of {wanted:,} rows cannot be used ({reasons}), which is more than "
                f"max_broken={max_broken} of them; mend them and pack into another folder, or give a larger max_broken{hint}"
            )


def summarize(plan: Plan, job: Job, classes: Iterable[str] = ()) -> Summary:
    """Add up the counts of all shards of a plan; all must be finished.

    Args:
        plan: The plan.
        job: Settings that all shards share.
        classes: Names of the classes, in the order of their numbers, where they are those of folders.
    """
    skipped, splits, shards = Tally(), {split: Tally() for split in SPLITS}, dict.fromkeys(SPLITS, 0)
    skipped.add(plan.skipped)
    for shard in plan.shards:
        tally = read_tally(shard, job)
        assert tally is not None
        split = shard.name.rpartition("-")[0]
        skipped.add(Tally(skipped=tally.skipped))
        splits[split].add(Tally(tally.samples, tally.size))
        shards[split] += tally.samples > 0
    experiment = choose_experiment(lambda field: 2 * plan.fields[field] > plan.stored)
    return Summary(
        job.out, plan.rows, skipped, plan.others, plan.merged, experiment, plan.several, splits, shards, tuple(classes)
    )


def escape_folder(folder: str) -> str:
    """Return a folder as the beginning of a pattern of shards, with brackets, braces and stars in its name escaped."""
    return re.sub(r"[\\{}]", r"\\\g<0>", escape(folder))


def _lines(tally: Tally) -> Iterator[str]:
    for reason, entry in tally.skipped.items():
        more = ", ..." if entry["count"] > len(entry["first"]) else ""
        yield f"{entry['count']:>12,}   {reason}: {', '.join(entry['first'])}{more}"


def _reasons(tally: Tally) -> Iterator[str]:
    for reason, entry in tally.skipped.items():
        yield f"{entry['count']:,} {reason}: {', '.join(entry['first'])}"
