"""Offline evaluation of a training, as lines of its MLPerf log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm.logger.mllog_file import adder, now, place_of, read_lines

FID_TARGET = 90.0
"""The largest FID with which Stable Diffusion counts as trained (MLPerf Training, rounds v3.1 to v5.0)."""

CLIP_TARGET = 0.15
"""The smallest CLIP score with which it does."""


def append_evaluation(log: Path, *, step: int, fid: float, clip: float, began: float, ended: float) -> bool:
    """Add the lines of an evaluation of one checkpoint to the log of its training. Lines that are there are not repeated.

    Args:
        log: The log, as `MLLog` wrote it.
        step: Optimiser steps after which the checkpoint was written.
        fid: FID of the images.
        clip: CLIP score of the images: the mean cosine, in [-1, 1].
        began: When the evaluation began, in seconds since 1970.
        ended: When it ended.

    Returns:
        Whether the checkpoint reaches the targets.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the log is that of no training, or holds other scores of the same checkpoint.
        ImportError: If the package mlperf-logging is not installed.
    """
    lines = read_lines(log, missing_ok=False)
    place = place_of(step, _batch_of(log, lines))
    known = {line["metadata"]["metric"]: line["value"] for line in _evaluated(lines) if _is_at(line, step)}
    scores = {"FID": fid, "CLIP": clip}
    if other := {name: known[name] for name in known if known[name] != scores.get(name)}:
        raise ValueError(
            f"{log} holds other scores of step {step} already: {other}, now {scores}; logs are only added to, so write the new "
            "scores into a copy of the log that ends before them"
        )
    if known.keys() < scores.keys():
        writer = adder(log)
        writer.start("eval_start", metadata=place, time_ms=round(began * 1000))
        for name, value in scores.items():
            if name not in known:
                metadata = {**place, "metric": name}
                writer.event("eval_accuracy", value, metadata=metadata, time_ms=round(ended * 1000))
        writer.end("eval_stop", metadata=place, time_ms=round(ended * 1000))
    return reaches_targets(fid, clip)


def append_run_stop(log: Path) -> str | None:
    """Add the line that ends a log, if a checkpoint reaches the targets, or if all are evaluated and none does.

    Its time is that at which the training of the first such checkpoint ended, since offline evaluation does not count. Without
    success it is the time at which the last block ended. A log that ended without success can be ended again with it.

    Args:
        log: The log, with the lines of its evaluations.

    Returns:
        "success" or "aborted"; None: the log is not ended, since points of evaluation are missing.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the log is that of no training.
        ImportError: If the package mlperf-logging is not installed.
    """
    lines = read_lines(log, missing_ok=False)
    batch = _batch_of(log, lines)
    scores: dict[int, dict[str, float]] = {}
    for line in _evaluated(lines):
        scores.setdefault(line["metadata"]["step_num"], {})[line["metadata"]["metric"]] = line["value"]
    passed = [
        step for step, found in scores.items() if len(found) == 2 and reaches_targets(found["FID"], found["CLIP"])
    ]
    stops = [line for line in lines if line["key"] == "block_stop"]
    if not passed and {line["metadata"]["step_num"] for line in stops} - scores.keys():
        return None
    status = "success" if passed else "aborted"
    if any(line["key"] == "run_stop" and line["metadata"]["status"] == status for line in lines):
        return status
    stops = [line for line in stops if not passed or _is_at(line, min(passed))]
    step = min(passed) if passed else stops[-1]["metadata"]["step_num"] if stops else 0
    ended = stops[-1]["time_ms"] if stops else now()
    adder(log).end("run_stop", metadata={"status": status, **place_of(step, batch)}, time_ms=ended)
    return status


def reaches_targets(fid: float, clip: float) -> bool:
    """Return whether scores are those of a model that counts as trained."""
    return fid <= FID_TARGET and clip >= CLIP_TARGET


def _is_at(line: Mapping[str, Any], step: int) -> bool:
    at: int = line["metadata"]["step_num"]
    return at == step


def _evaluated(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["key"] == "eval_accuracy"]


def eval_samples_of(log: Path) -> int:
    """Return with how many images each point of a training is evaluated, as its log says.

    Args:
        log: The log.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the log is that of no training.
    """
    return _fact(log, read_lines(log, missing_ok=False), "eval_samples")


def _batch_of(log: Path, lines: list[dict[str, Any]]) -> int:
    return _fact(log, lines, "global_batch_size")


def _fact(log: Path, lines: list[dict[str, Any]], key: str) -> int:
    """Return a number that the log of a training says. Raises ValueError if it does not."""
    for line in lines:
        if line["key"] == key:
            value: int = line["value"]
            return value
    raise ValueError(f"{log} is not the log of a training: it does not say {key}; train with logger=mllog")
