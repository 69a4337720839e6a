"""Measuring several checkpoints that a pattern names, each into a folder of its own, and their curve."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from ldm import checkpoint
from ldm.evaluate.curve import write_curve
from ldm.evaluate.own import CURVE, PICTURE, Kind, Results, check_folder, is_evaluated, is_own
from ldm.evaluate.processes import Place
from ldm.files.output_folder import OutputFolder

log = logging.getLogger(__name__)

UNREADABLE = "that cannot be read as a checkpoint of this project"


def checkpoints_of(pattern: str, kind: type, names: Sequence[str], packages: Sequence[str]) -> list[str]:
    """Return the checkpoints of one kind of model that a pattern names, and say how many others are left out.

    Args:
        pattern: The pattern, like 'runs/x/**/step-*.ckpt'; folders that it names are searched.
        kind: The class of the models.
        names: File names of finished models of that kind.
        packages: Packages whose classes the checkpoints may name.

    Raises:
        ValueError: If there is none.
    """
    files = sorted(glob.glob(pattern, recursive=True))
    if not files:
        raise ValueError(f"no checkpoint is named by ckpts={pattern}; a pattern is like 'runs/x/**/step-*.ckpt'")
    chosen, others = [], Counter[str]()
    for file in files:
        try:
            found = checkpoint.kind_of(checkpoint.find(file, names), packages)
        except (ValueError, OSError):
            others[UNREADABLE] += 1
            continue
        if issubclass(found, kind):
            chosen.append(file)
        else:
            others[f"of {found.__name__}"] += 1
    left_out = " and ".join(f"{count} {what}" for what, count in others.items())
    if not chosen:
        raise ValueError(
            f"none of the {len(files)} files that ckpts={pattern} names is a checkpoint of {kind.__name__}, which this protocol "
            f"measures; there are {left_out}"
        )
    if left_out:
        log.warning(
            "ckpts=%s: %d checkpoints of %s are measured; left out: %s", pattern, len(chosen), kind.__name__, left_out
        )
    return chosen


def measure_models(
    config: DictConfig,
    kind: Kind,
    of: type,
    names: Sequence[str],
    measure: Callable[[str, Path], Results],
) -> list[Results]:
    """Measure the model that `ckpt` names into the folder `out`, or each of those that `ckpts` names into one inside it.

    Args:
        config: The options of a command.
        kind: The kind of evaluation that is written into the folder of a model.
        of: The class of the models.
        names: File names of finished models of that class.
        measure: Measures a checkpoint into its folder.
    """
    out = Path(config.out)
    if config.ckpt is not None:
        return [measure(config.ckpt, out)]
    files = checkpoints_of(config.ckpts, of, names, list(config.packages))
    return measure_several(files, out, lambda folder: check_folder(folder, kind), measure)


def measure_several(
    files: Sequence[str],
    out: Path,
    check: Callable[[Path], None],
    measure: Callable[[str, Path], Results],
) -> list[Results]:
    """Measure checkpoints, each into a folder of its own, and write their scores over their steps.

    Args:
        files: The checkpoints.
        out: The folder for those folders.
        check: Raises ValueError where such a folder holds what must not be replaced; called of all before anything is measured.
        measure: Measures a checkpoint into such a folder.

    Raises:
        ValueError: Where two checkpoints would be measured into the same folder.
    """
    names = _folder_names(files)
    folders = [out / name for name in names]
    own = set(names)

    def replaceable(name: str) -> bool:
        if name in (CURVE, PICTURE):
            return is_own(out / name)
        return (out / name).is_dir() and (name in own or is_evaluated(out / name))

    OutputFolder(out, option="out", is_own=replaceable).check()
    for folder in folders:
        check(folder)
    results = []
    for file, folder in zip(files, folders, strict=True):
        log.info("%s", file)
        results.append(measure(file, folder))
    if Place.here().rank == 0:
        write_curve(out, results)
    return results


def _folder_names(files: Sequence[str]) -> list[str]:
    """Return the name of the folder of each checkpoint: its path in the folder that all share, without the ending of a file."""
    common = os.path.commonpath([str(Path(file).parent) for file in files])
    paths = [Path(file).relative_to(common) for file in files]
    names = [
        str(path if Path(file).is_dir() else path.with_suffix("")).replace(os.sep, "-")
        for file, path in zip(files, paths, strict=True)
    ]
    first: dict[str, str] = {}
    for file, name in zip(files, names, strict=True):
        if (other := first.setdefault(name, file)) != file:
            raise ValueError(
                f"{other} and {file} would both be measured into the folder {name} of out; name them in two commands, each with "
                "its own out"
            )
    return names
