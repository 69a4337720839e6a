"""`python -m ldm.report`: write the reports of runs into their folders."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ldm.config import resolved
from ldm.report.page import REPORT_FILE, is_our_page, write_report
from ldm.report.run_folder import read_run

SWEEP_FILES = ("multirun.yaml", "optimization_results.yaml", "study.db")
"""Files that lie beside the runs in the folder of a sweep, which `runs/sweep/*` names, too."""


def main(config: DictConfig) -> None:
    """Run the command.

    Raises:
        ValueError: If there is no run, or a file would be replaced that this program did not write; nothing was written.
    """
    names = folders(config.runs, "python -m ldm.report runs/txt2img")
    runs = [read_run(name) for name in names]
    if config.out is not None and len(names) > 1:
        raise ValueError(
            f"out={config.out} is one file, and there are {len(names)} runs; leave out= away, or name one run"
        )
    files = [Path(config.out) if config.out is not None else run.folder / REPORT_FILE for run in runs]
    for file in files:
        if file.exists() and not is_our_page(file):
            raise ValueError(
                f"{file} was not written by this program; give another file, like out=report-of-a-run.html"
            )
    for run, file in zip(runs, files, strict=True):
        write_report(run, file)
        print(f"{run.folder}: {file}")


def folders(runs: object, example: str) -> list[str]:
    """Return the folders of runs that a command names, each once; files that a sweep writes beside its runs are left out.

    Args:
        runs: The option `runs`: a list, or one.
        example: A command that names some.

    Raises:
        ValueError: If it names none.
    """
    given = resolved(runs)
    names = [str(given)] if isinstance(given, str | int | float) else [str(name) for name in given or []]
    names = [name for name in names if not (Path(name).name in SWEEP_FILES and Path(name).is_file())]
    if not names:
        raise ValueError(f"no run is named; type {example}")
    return list(dict.fromkeys(names))
