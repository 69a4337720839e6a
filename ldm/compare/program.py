"""`python -m ldm.compare`: read runs, compare them, print and write what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ldm.compare.drawing import charts, draw_all, legend_of, panels_of
from ldm.compare.expected import HEAD, write_expected
from ldm.compare.options import trained_alike
from ldm.compare.own import FILES, MARK, MARKDOWN, PAGE, PICTURE, is_own
from ldm.compare.table import (
    Rows,
    are_long,
    markdown,
    names_of,
    numbered_names,
    option_table,
    parts_that_fit,
    score_tables,
    with_numbers,
)
from ldm.compare.verdict import RULE, Verdict, decide_all, find_expected
from ldm.files.output_folder import OutputFolder
from ldm.files.whole import write_whole
from ldm.report.page import render
from ldm.report.program import folders
from ldm.report.run_folder import RunFiles, read_run


def main(config: DictConfig) -> None:
    """Run the command.

    Raises:
        ValueError: If there is no run, a file cannot be read, or one would be replaced that this program did not write; nothing
            was written then.
    """
    runs = [read_run(name) for name in folders(config.runs, "python -m ldm.compare runs/a runs/b")]
    out, curve = OutputFolder(config.out, option="out", is_own=partial(is_own, Path(config.out))), None
    out.check()
    if config.curve is not None:
        curve = Path(config.curve)
        _check_curve(curve, runs)
    expected, made_of, remarks = find_expected(runs, None if config.expected is None else Path(config.expected))
    verdicts = [] if expected is None else decide_all(runs, expected, made_of)
    tables = score_tables(runs, expected)
    if (options := option_table(runs)) is not None:
        tables.append(options)
    names = names_of(runs)
    listed = numbered_names(names) if are_long(names) else []
    written = [with_numbers(rows, names) for rows in tables] if listed else tables
    panels = panels_of(runs, expected)
    sentences = [*remarks, *(verdict.text for verdict in verdicts)]
    with out.lock():
        draw_all(panels, out.path / PICTURE)
        write_whole(out.path / MARKDOWN, _markdown(sentences, listed, written, judged=bool(verdicts)))
        about = () if expected is None else expected.about
        page = render(
            "compare.html",
            runs=runs,
            remarks=remarks,
            verdicts=verdicts,
            tables=written,
            listed=listed,
            charts=charts(panels),
            legend=legend_of(panels),
            rule=RULE,
            about=about,
        )
        write_whole(out.path / PAGE, page)
    if curve is not None:
        write_expected(curve, runs[0].experiment, runs)
    _print(tables, names, sentences, verdicts)
    print(f"tables, curves and page: {', '.join(str(out.path / name) for name in FILES)}")
    if curve is not None:
        print(f"expected curve: {curve}")


def _check_curve(file: Path, runs: Sequence[RunFiles]) -> None:
    """Check that an expected curve can be made of runs and written.

    Raises:
        ValueError: If it cannot.
    """
    for run in runs[1:]:
        if names := trained_alike(runs[0].config, run.config):
            raise ValueError(
                f"an expected curve is of runs that differ in nothing but their seeds, and {runs[0].folder} and {run.folder} "
                f"differ in {', '.join(names[:5])}; name others, or leave curve= away"
            )
    seeds = [run.config.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"an expected curve is of runs of different seeds, and these have {', '.join(map(str, seeds))}"
        )
    unfinished = [str(run.folder) for run in runs if not run.is_finished]
    if unfinished:
        raise ValueError(f"an expected curve is of finished runs; not finished: {', '.join(unfinished)}")
    if file.exists():
        with file.open(encoding="utf-8", errors="replace") as text:
            if not text.read(len(HEAD)) == HEAD:
                raise ValueError(
                    f"curve={file} was not written by this program; give another file, like curve=expected.csv"
                )


def _markdown(sentences: Sequence[str], listed: Sequence[str], tables: Sequence[Rows], *, judged: bool) -> str:
    """Return the comparison in Markdown."""
    parts = [f"{MARK}\n# Comparison of runs", *(f"- {sentence}" for sentence in sentences)]
    if judged:
        parts.append(RULE)
    if listed:
        parts += ["## Runs", "\n".join(f"- {name}" for name in listed)]
    for table in tables:
        parts += [f"## {table.title}", markdown(table)]
    return "\n\n".join([*parts, f"![curves]({PICTURE})"]) + "\n"


def _print(tables: Sequence[Rows], names: Sequence[str], sentences: Sequence[str], verdicts: Sequence[Verdict]) -> None:
    console = Console()
    fit = partial(fits, console)
    if not all(map(fit, tables)):
        print("\n".join(["Runs", *numbered_names(names)]))
        tables = [part for rows in tables for part in parts_that_fit(with_numbers(rows, names), fit)]
    for rows in tables:
        console.print(rich_table(rows), markup=False)
    for sentence in sentences:
        print(sentence)
    if verdicts:
        print(RULE)


def fits(console: Console, rows: Rows) -> bool:
    """Return whether a table can be printed without folding cells."""
    whole = console.options.update(width=10_000)
    return Measurement.get(console, whole, rich_table(rows)).maximum <= console.width


def rich_table(rows: Rows) -> Table:
    """Return a table as rich prints it, numbers to the right."""
    table = Table(title=rows.title, title_justify="left")
    for place, name in enumerate(rows.head):
        table.add_column(Text(name), justify="right" if place else "left", overflow="fold")
    for row in rows.rows:
        table.add_row(*map(Text, row))
    return table
