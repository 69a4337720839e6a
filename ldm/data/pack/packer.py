"""Captioned images -> tar shards to train from: `python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR`.

Whatever is wrong with an image is found here, not in training. The same input gives the same bytes with any number of
workers, and a second start goes on where the first was stopped: a shard is a fixed range of rows, written under another
name and renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ldm.data.decode import Broken
from ldm.data.pack.captions import Row, find_tables, read_sidecars, read_table
from ldm.data.pack.plan import Plan, Tally, make_plan
from ldm.data.pack.shard import Job, read_tally, write_json
from ldm.data.pack.workers import write_all

SPLITS = ("train", "val")


class Summary(NamedTuple):
    """What is in a folder of shards.

    out      the folder
    rows     how many were read
    skipped  those that are in no shard
    splits   counts of each split
    shards   how many each split has
    """

    out: Path
    rows: int
    skipped: Tally
    splits: dict[str, Tally]
    shards: dict[str, int]

    def save(self) -> None:
        """Write `summary.json` into the folder."""
        splits = {
            split: {"samples": tally.samples, "shards": self.shards[split], "bytes": tally.size}
            for split, tally in self.splits.items()
        }
        write_json(self.out / "summary.json", {"rows": self.rows, **splits, "skipped": self.skipped.skipped})

    def table(self) -> str:
        """For people, with the command to type next."""
        lines = [f"{self.rows:>12,} rows"]
        for split, tally in self.splits.items():
            shards = f"{self.shards[split]:,} shard{'' if self.shards[split] == 1 else 's'}"
            lines.append(f"{tally.samples:>12,} {split} samples in {shards}, {tally.size / 1e6:,.1f} MB")
        lines.append(f"{self.skipped.broken:>12,} skipped")
        for reason, entry in self.skipped.skipped.items():
            more = ", ..." if entry["count"] > len(entry["first"]) else ""
            lines.append(f"{entry['count']:>12,}   {reason}: {', '.join(entry['first'])}{more}")
        if not self.shards["val"]:
            lines.append(
                "training needs validation images, too, which are not here: give other shards, or pack into another "
                "out= with a larger val_share"
            )
        return "\n".join([*lines, f"next: {self.next_command()}"])

    def next_command(self) -> str:
        """What trains on these shards."""
        patterns = {split: shlex.quote(f"{self.out}/{split}-*.tar") if n else "..." for split, n in self.shards.items()}
        options = " ".join(f"data.{split}={pattern}" for split, pattern in patterns.items())
        return f"python train.py experiment=txt2img_shards {options}"

    def check(self, max_broken: float) -> None:
        """Raise ValueError where there is no sample, or where more than this share of the rows was skipped."""
        reasons = "; ".join(
            f"{entry['count']:,} {reason}: {', '.join(entry['first'])}"
            for reason, entry in self.skipped.skipped.items()
        )
        if not any(self.shards.values()):
            raise ValueError(
                f"none of {self.rows:,} rows can be used ({reasons or 'there are none'}); nothing was packed"
            )
        if self.skipped.broken > max_broken * self.rows:
            raise ValueError(
                f"{self.skipped.broken:,} of {self.rows:,} rows cannot be used ({reasons}), which is more than "
                f"max_broken={max_broken} of them; mend them and pack into another folder, or give a larger max_broken"
            )


class Packer:
    """Packs captioned images into `train-000000.tar`, ... and `val-000000.tar`, ...

    out                folder of the shards
    images             folder of the images; None: that of the captions
    captions           a table, or a glob of several; None: .txt files beside the images
    image_column       of the table: paths relative to `images`, or the images themselves; None: by its usual names
    caption_column     of the table; None: by its usual names
    side               to which the shorter side of an image is reduced, in pixels; None: files are stored as they are
    format             of what `side` writes, "jpg" or "png"; None: jpg for jpgs and png else
    val_share          share of the samples for validation, in [0, 1)
    samples_per_shard  rows that go into one shard
    workers            processes; None: as many as there are cores
    max_broken         share of rows that may be skipped, in [0, 1]
    """

    def __init__(
        self,
        out: str | Path,
        *,
        images: str | Path | None = None,
        captions: str | Path | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        side: int | None = None,
        format: str | None = None,
        val_share: float = 0.01,
        samples_per_shard: int = 1000,
        workers: int | None = None,
        max_broken: float = 0.05,
    ) -> None:
        _check("side", side, side is None or _is_count(side), "a number of pixels, or null")
        _check("format", format, format in (None, "jpg", "png"), "jpg, png or null")
        _check("format", format, format is None or side is not None, "a side as well, or null: files stay as they are")
        _check("val_share", val_share, _is_share(val_share) and val_share < 1, "a share, from 0 to below 1")
        _check("samples_per_shard", samples_per_shard, _is_count(samples_per_shard), "a number from 1")
        _check("workers", workers, workers is None or _is_count(workers), "a number from 1, or null")
        _check("max_broken", max_broken, _is_share(max_broken), "a share, from 0 to 1")
        self.captions = None if captions is None else str(captions)
        self.columns = (image_column, caption_column)
        self.val_share = val_share
        self.samples_per_shard = samples_per_shard
        self.workers = workers or _cores()
        self.max_broken = max_broken
        self.job = Job(Path(os.path.abspath(out)), _folder(images, self.captions), side, format)
        if self.captions is not None:
            find_tables(self.captions)

    def write(self) -> Summary:
        """Write the shards that are not there yet, and `summary.json`.

        Raises ValueError where the folder was begun with other options or rows, and, after all is written, where too many
        rows were skipped.
        """
        _check_folder(self.job.out)
        self.job.private.mkdir(parents=True, exist_ok=True)
        with _alone(self.job):
            try:
                plan = make_plan(
                    tqdm(self._rows(), desc="reading captions", unit="row"),
                    self.job.database,
                    val_share=self.val_share,
                    samples_per_shard=self.samples_per_shard,
                )
                if plan.shards:
                    self._claim(plan)
                    self._write_missing(plan)
                    _sum(plan, self.job).save()
            finally:
                self.job.database.unlink(missing_ok=True)
        summary = _sum(plan, self.job)
        summary.check(self.max_broken)
        return summary

    def _rows(self) -> Iterator[tuple[str, Row | Broken]]:
        if self.captions is None:
            return read_sidecars(self.job.images)
        return read_table(self.captions, self.job.images, *self.columns)

    def _claim(self, plan: Plan) -> None:
        """Write down what is packed here; raise ValueError where it was something else."""
        wanted = {
            "captions": f"{plan.rows} rows, {plan.fingerprint}",
            "images": str(self.job.images),
            "side": self.job.side,
            "format": self.job.format,
            "val_share": self.val_share,
            "samples_per_shard": self.samples_per_shard,
        }
        file = self.job.out / "pack.json"
        known = json.loads(file.read_text()) if file.is_file() else wanted
        changes = [
            f"{name}: {known.get(name)} -> {value}" for name, value in wanted.items() if known.get(name) != value
        ]
        if changes:
            raise ValueError(
                f"{self.job.out} was begun with something else ({'; '.join(changes)}); "
                "give what it was begun with, choose another out=..., or delete the folder"
            )
        write_json(file, wanted)

    def _write_missing(self, plan: Plan) -> None:
        missing = [shard for shard in plan.shards if read_tally(shard, self.job) is None]
        total, rest = (sum(shard.rows for shard in shards) for shards in (plan.shards, missing))
        with tqdm(total=total, initial=total - rest, desc="packing", unit="image") as bar:
            write_all(missing, self.job, self.workers, bar.update)


def _sum(plan: Plan, job: Job) -> Summary:
    skipped, splits, shards = Tally(), {split: Tally() for split in SPLITS}, dict.fromkeys(SPLITS, 0)
    skipped.add(plan.skipped)
    for shard in plan.shards:
        tally = read_tally(shard, job)
        assert tally is not None
        split = shard.name.rpartition("-")[0]
        skipped.add(Tally(skipped=tally.skipped))
        splits[split].add(Tally(tally.samples, tally.size))
        shards[split] += tally.samples > 0
    return Summary(job.out, plan.rows, skipped, splits, shards)


def _check_folder(out: Path) -> None:
    """Raise ValueError where shards cannot be written without being mixed up with something else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; give the folder that the shards shall be in")
    others = sorted(path.name for split in SPLITS for path in out.glob(f"{split}-*.tar"))
    if others and not (out / "pack.json").is_file():
        raise ValueError(f"{out} holds shards that were not packed here ({others[0]}, ...); choose another out=...")


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    lock = FileLock(job.private / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another process is packing into {job.out}; wait for it, or choose another out=..."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _folder(images: str | Path | None, captions: str | None) -> Path:
    """The folder of the images, absolute."""
    if images is None and captions is None:
        raise ValueError("neither images nor captions were given; type images=FOLDER, captions=TABLE, or both")
    folder = Path(os.path.abspath(images if images is not None else Path(str(captions)).parent))
    if not folder.is_dir():
        raise FileNotFoundError(f"images={folder} is no folder; give the one that the images are in")
    return folder


def _check(option: str, value: Any, right: bool, wanted: str) -> None:
    if not right:
        raise ValueError(f"{option}={value} cannot be; give {wanted}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
