"""Pack captioned images into tar shards: `python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR`.

Broken images are found here, not in training. The same input gives the same bytes with any number of workers, and a second
start goes on where the first was stopped: a shard is a fixed range of rows, written under another name and renamed when it
is whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm.auto import tqdm

from ldm.config import resolved
from ldm.data.pack.captions import find_tables, read_table, table_folder
from ldm.data.pack.class_folders import CLASSES_FILE, FROM_FOLDERS, digest, find_classes
from ldm.data.pack.plan import Plan, fraction_for_validation, make_plan
from ldm.data.pack.row import Found
from ldm.data.pack.shard import Job, fingerprint_images, read_tally, write_json
from ldm.data.pack.sidecars import read_sidecars
from ldm.data.pack.summary import Summary, summarize
from ldm.data.pack.workers import write_all
from ldm.files.output_folder import OutputFolder
from ldm.options.rule import COUNT, FRACTION, OneOf, Optional, Real, Rule, check_all

PLAN_FILE = "pack.json"
OWN_FILES = re.compile(rf"(train|val)-\d{{6,}}\.tar|{re.escape(PLAN_FILE)}|summary\.json|{re.escape(CLASSES_FILE)}")


@dataclass(frozen=True)
class _Text(Rule):
    """A rule that allows texts that are not empty, and paths."""

    def allows(self, value: object) -> bool:
        return isinstance(value, (str, Path)) and str(value) != ""

    def __str__(self) -> str:
        return "one name, with ./ before it where it begins with a bracket"


NO_CAPTIONS = "none"
"""The value of `captions` for images without captions."""

RULES = {
    "out": _Text(),
    "images": Optional(_Text(), "the folder of the captions"),
    "captions": Optional(_Text(), ".txt files beside the images"),
    "image_column": Optional(_Text(), "by its usual names"),
    "caption_column": Optional(_Text(), "by its usual names"),
    "labels": OneOf((FROM_FOLDERS, None)),
    "classes": Optional(_Text(), "in the order of their names"),
    "side": Optional(COUNT, "files stay as they are"),
    "image_format": OneOf(("jpg", "png", None)),
    "val_fraction": Optional(Real(0.0, 1.0, below=True), "0.01, or more of a small data set"),
    "val_max": Optional(COUNT, "any number"),
    "samples_per_shard": COUNT,
    "workers": Optional(COUNT, "as many as there are cores"),
    "max_broken": FRACTION,
}
"""For each option the rule that its value must keep."""


class Packer:
    """A program that packs captioned images into `train-000000.tar`, ... and `val-000000.tar`, ...

    Args:
        out: Folder of the shards.
        images: Folder of the images; None: the folder of the captions.
        captions: A table, or a glob of several; None: .txt files beside the images; "none": there are none, and no .txt or
            .json is read.
        image_column: Column of the table that holds paths relative to `images`, or the images themselves; None: found by
            its usual names.
        caption_column: Column of the table that holds captions; None: found by its usual names.
        labels: "folders": the folders directly in `images` are classes, numbered in the order of their names; None: labels are
            those beside the images, where there are some.
        classes: A text file with the names of these folders, one a line, in the order of their numbers, as an earlier packing
            wrote it; None: they are numbered in the order of their names.
        side: Length in pixels to which the shorter side of an image is reduced; None: files are stored as they are.
        image_format: Format of the images that `side` reduces, "jpg" or "png"; None: jpg for a jpg, png for any other.
        val_fraction: Fraction of the samples for validation, in [0, 1); None: 0.01, and of a small data set as much as gives 16,
            but not more than 0.2.
        val_max: The greatest number of samples for validation; None: any.
        samples_per_shard: Rows that go into one shard.
        workers: Number of processes; None: as many as there are cores.
        max_broken: The greatest fraction of rows that may be skipped, in [0, 1].

    Raises:
        ValueError: Where an option has a value that it cannot have, or a folder or a table cannot be used.
        FileNotFoundError: Where the folder of images or the table is missing.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        images: str | Path | None = None,
        captions: str | Path | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        labels: str | None = None,
        classes: str | Path | None = None,
        side: int | None = None,
        image_format: str | None = None,
        val_fraction: float | None = None,
        val_max: int | None = 10_000,
        samples_per_shard: int = 1000,
        workers: int | None = None,
        max_broken: float = 0.05,
    ) -> None:
        given: dict[str, object] = {"out": out, "images": images, "captions": captions, "side": side}
        given |= {"image_format": image_format, "labels": labels, "classes": classes}
        given |= {"image_column": image_column, "caption_column": caption_column, "workers": workers}
        given |= {"val_fraction": val_fraction, "val_max": val_max, "samples_per_shard": samples_per_shard}
        check_all({**given, "max_broken": max_broken}, RULES)
        if image_format is not None and side is None:
            raise ValueError(
                f"image_format={image_format} cannot be; give a side as well, or null: files stay as they are"
            )
        if image_column is not None and captions in (None, NO_CAPTIONS):
            raise ValueError(f"image_column={image_column} is of a table; give captions=TABLE as well, or null")
        if caption_column is not None and captions == NO_CAPTIONS:
            raise ValueError(
                f"caption_column={caption_column} cannot be with captions=none, which reads none; leave one out"
            )
        if labels is not None and (images is None or captions not in (None, NO_CAPTIONS)):
            raise ValueError(
                f"labels={labels} is for images=FOLDER without a table; a table names classes in a column called label, which "
                "goes into the .json"
            )
        if classes is not None and labels is None:
            raise ValueError(
                f"classes={classes} numbers the folders of labels={FROM_FOLDERS}; give that as well, or null"
            )
        self.captionless = captions == NO_CAPTIONS
        if self.captionless and images is None:
            raise ValueError("captions=none needs images=FOLDER, the folder of the images")
        self.captions = None if captions is None or self.captionless else str(captions)
        self.image_column = image_column
        self.caption_column = caption_column
        self.val_fraction = val_fraction
        self.val_max = val_max
        self.samples_per_shard = samples_per_shard
        self.workers = workers or _cores()
        self.max_broken = max_broken
        path = Path(os.path.abspath(out))
        self.folder = OutputFolder(path, option="out", is_own=self._is_own)
        self.folder.check()
        if self.captions is not None:
            find_tables(self.captions, None if images is None else Path(images))
        self.job = Job(path, _folder(images, self.captions), side, image_format)
        self.labels = labels
        file = None if classes is None else Path(classes)
        self.classes = None if labels is None else find_classes(self.job.images, leave_out=path, file=file)
        self.given_classes = None if file is None else digest(list(self.classes or ()))

    def write(self) -> Summary:
        """Write the shards that are not there yet, and `summary.json`.

        Returns:
            The counts of the whole packing.

        Raises:
            ValueError: Where the folder was begun with other options or rows, or, after all is written, where too many rows
                were skipped.
        """
        with self.folder.lock():
            self.job.private.mkdir(exist_ok=True)
            try:
                plan = make_plan(
                    tqdm(self._rows(), desc="finding images" if self.captionless else "reading captions", unit="row"),
                    self.job.database,
                    val_fraction=self.val_fraction,
                    val_max=self.val_max,
                    samples_per_shard=self.samples_per_shard,
                )
                if plan.shards:
                    self._check_split(plan)
                    self._claim(plan)
                    self._write_missing(plan)
                    summarize(plan, self.job, self.classes or ()).save()
            finally:
                self.job.database.unlink(missing_ok=True)
        summary = summarize(plan, self.job, self.classes or ())
        summary.check(self.max_broken, self.job.images)
        return summary

    def _is_own(self, name: str) -> bool:
        return OWN_FILES.fullmatch(name) is not None and _read_plan(self.folder.path) is not None

    def _rows(self) -> Iterator[Found]:
        if self.captions is None:
            return read_sidecars(
                self.job.images,
                leave_out=self.job.out,
                caption_column=self.caption_column,
                captionless=self.captionless,
                classes=self.classes,
            )
        return read_table(
            self.captions, self.job.images, self.image_column, self.caption_column, leave_out=self.job.out
        )

    def _check_split(self, plan: Plan) -> None:
        """Raise ValueError where a fraction of the rows is wanted for validation that is none or all of them."""
        lacking = {"train", "val"} - {shard.name.partition("-")[0] for shard in plan.shards}
        if not (self.val_fraction and lacking):
            return
        if (fraction := fraction_for_validation(self.job.database)) is not None:
            used = "validation" if "val" in lacking else "training"
            raise ValueError(
                f"val_fraction={self.val_fraction:g} leaves none of {plan.stored:,} images for "
                f"{used}; give val_fraction={fraction:g}, or val_fraction=0 where validation images are in other shards"
            )

    def _claim(self, plan: Plan) -> None:
        """Write down the options and rows of this packing; raise ValueError where the folder was begun with others."""
        wanted = {
            "captions": f"{plan.rows} rows, {plan.fingerprint}",
            "images": fingerprint_images(plan.shards[0], self.job),
            "labels": self.labels,
            "classes": self.given_classes,
            "side": self.job.side,
            "image_format": self.job.format,
            "val_fraction": self.val_fraction,
            "val_max": self.val_max,
            "samples_per_shard": self.samples_per_shard,
        }
        known = _read_plan(self.job.out) or wanted
        changes = {
            name: f"{name}: {known.get(name)} -> {value}" for name, value in wanted.items() if known.get(name) != value
        }
        if changes.keys() > {"images"}:
            del changes["images"]  # the ones that are looked at depend on the rows and on how they are cut
        if changes:
            raise ValueError(
                f"{self.job.out} was begun with something else ({'; '.join(changes.values())}); "
                "give what it was begun with, choose another out=..., or delete the folder"
            )
        write_json(self.job.out / PLAN_FILE, wanted)

    def _write_missing(self, plan: Plan) -> None:
        missing = [shard for shard in plan.shards if read_tally(shard, self.job) is None]
        total, rest = (sum(shard.rows for shard in shards) for shards in (plan.shards, missing))
        with tqdm(total=total, initial=total - rest, desc="packing", unit="image") as bar:
            write_all(missing, self.job, self.workers, bar.update)


def main(config: DictConfig) -> None:
    """Pack images as `configs/pack.yaml` says, and print what was written."""
    print(Packer(**resolved(config)).write().table())


def _read_plan(out: Path) -> dict[str, Any] | None:
    """Return the options and rows that a folder was begun with; None where it holds no packing."""
    with suppress(OSError, ValueError):
        plan = json.loads((out / PLAN_FILE).read_text())
        if isinstance(plan, dict) and "captions" in plan:
            return plan
    return None


def _folder(images: str | Path | None, captions: str | None) -> Path:
    """Return the absolute path of the folder of the images."""
    if images is None and captions is None:
        raise ValueError("neither images nor captions were given; type images=FOLDER, captions=TABLE, or both")
    folder = Path(os.path.abspath(images if images is not None else table_folder(str(captions))))
    if not folder.is_dir():
        raise FileNotFoundError(f"images={folder} is no folder; give the one that the images are in")
    return folder


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
