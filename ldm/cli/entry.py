"""The one way in: every program reads its command line, answers mistakes and help, and runs a config through Hydra here."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra.errors import CompactHydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from ldm.cli.command_line import CommandLine, UsageError, read_words
from ldm.cli.help import help_text
from ldm.cli.mistakes import check_options, compose_choices, first_missing
from ldm.cli.short_names import is_short, last_stage, rewrite
from ldm.config import CONFIGS, is_rank_zero, options_of, register_resolvers
from ldm.files.disk import full_disk
from ldm.options.arguments import keep_typed, quote_texts, quoted
from ldm.options.sweep import in_sweep

MENDABLE = (InstantiationException, OmegaConfBaseException, ValueError, OSError, ImportError)
"""Errors that a user can fix: only their message is shown, without a traceback."""


FEWER = "fewer images at once need less: batch_size=1, say"

ROOM = {
    "train": (
        "fewer images at once need less: trainer.accumulate_grad_batches=2 (or 4, 8, ...) computes as many in a step, in parts; "
        "activation_checkpointing=true keeps less of each; python -m ldm.plan with the same options counts what a step needs"
    ),
    "sample": f"{FEWER}, and tile=512 for large ones",
    **dict.fromkeys(("evaluate", "encode", "neighbors"), FEWER),
}
"""Name of a program -> advice where memory is short."""


def program(
    name: str,
    run: str | Callable[[DictConfig], Any],
    *,
    under: str = "",
    missing: Mapping[str, str] | None = None,
    check: Callable[[CommandLine], None] | None = None,
    alternatives: str = "",
    unneeded: Collection[str] = (),
    words: str = "",
    paths: bool = False,
) -> None:
    """Run a program with the command line that it was started with.

    Args:
        name: The config is `configs/<name>.yaml`.
        run: What the program does with the composed config: a function that imports large libraries itself, or the name of
            one, like "ldm.ema.average:main", which is imported when it is called. So help and mistakes are answered at once.
        under: The node that the typed options belong to, "data.source" say; "" for the whole config.
        missing: Name of an option -> what to say where it has no value, if there is more to say than that.
        check: Looks at the command line before anything is composed, and raises UsageError where it has a mistake.
        alternatives: The group whose choices have options of their own, all of which `--help` lists; "" for none.
        unneeded: Full names of options that may stay without a value.
        words: The option whose values, a list, may be typed as words without a name; "" for none.
        paths: Whether such words are paths, so that one may hold "=": `runs/sweep/seed=1`.

    Raises:
        SystemExit: The user has made a mistake, or has interrupted the program; what to do is printed.
    """
    warnings.filterwarnings("ignore", "(?s)This DataLoader will create")  # torch, about the default on a small machine
    register_resolvers()
    keep_typed(sys.argv[1:])
    try:
        line = read_command_line(name, sys.argv[1:], under, words, paths=paths)
        if line.asks_help and line.is_ours:
            show(help_text(name, line, under, alternatives))
            return
        if line.is_ours:
            if check is not None:
                check(line)
            config = check_options(name, line)
            if line.is_sweep:  # said before any job of it fails
                _check_missing(config, missing or {}, unneeded)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    sys.argv[1:] = line.words  # where Hydra reads them, and whoever starts this program again in further processes
    main = hydra.main(config_path=str(CONFIGS), config_name=name, version_base="1.3")
    try:
        main(_with_messages(name, run, missing or {}, unneeded))()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def show(text: str) -> None:
    """Print a text; a reader like `head` may take no more than its beginning."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python can flush it at its end


def read_command_line(
    name: str, typed: list[str], under: str = "", words: str = "", *, paths: bool = False
) -> CommandLine:
    """Read the words of a command line as `program` does: sorted, and rewritten to what Hydra understands."""
    line = read_words(typed)
    options = [_full(option, under) for option in _with_list(line.options, words, paths)]
    line = CommandLine(line.flags, tuple(quote_texts(options, line.is_sweep)), under)
    return _with_full_names(name, line) if line.is_ours and any(map(is_short, line.options)) else line


def _with_full_names(name: str, line: CommandLine) -> CommandLine:
    """Return a command line with short names in full; without a change where the program's config has no stages."""
    plain = CommandLine(line.flags, tuple(option for option in line.options if not is_short(option)))
    config = compose_choices(name, plain)
    if (stage := last_stage(config)) is None:
        return line
    return CommandLine(line.flags, tuple(rewrite(line.options, stage, options_of(config))))


def _with_list(options: Sequence[str], words: str, paths: bool) -> list[str]:
    """Return the words of a command line, those that are no options put together as the values of one, unless that is ""."""
    plain = [option for option in options if words and _is_value(option, paths)]
    if not plain:
        return list(options)
    if any(option.startswith(f"{words}=") for option in options):
        raise UsageError(f"{words} is given twice, by name and as {' '.join(plain)}; give it once")
    return [*(option for option in options if option not in plain), f"{words}=[{','.join(map(quoted, plain))}]"]


def _is_value(word: str, paths: bool) -> bool:
    """Return whether a word is a value without a name: it has no "=", or, where paths are meant, only behind a "/"."""
    name, equals, _ = word.partition("=")
    if paths and "/" in name:
        return not (equals and name.startswith("hydra/"))
    return not equals and word[:1] not in "~+"


def _full(option: str, under: str) -> str:
    """Return an option with its full name; words that are no options stay as they are."""
    inside = not under or "=" not in option or option.startswith((f"{under}.", "hydra", "+", "~"))
    return option if inside else f"{under}.{option}"


def _check_missing(config: DictConfig, missing: Mapping[str, str], unneeded: Collection[str]) -> None:
    """Raise UsageError where an option has no value."""
    if (option := first_missing(config, unneeded)) is not None:
        given = f"the option {option} has no value; type {option}=VALUE, or --help for an example"
        raise UsageError(missing.get(option, given))


def _with_messages(
    name: str, run: str | Callable[[DictConfig], Any], missing: Mapping[str, str], unneeded: Collection[str]
) -> Callable[[DictConfig], Any]:
    """Let a program end with the message of an error that a user can mend, without a traceback.

    Inside a sweep the message is passed on, so that Hydra goes on with the other jobs and then says which it was.
    HYDRA_FULL_ERROR=1 shows all.
    """

    def wrapped(config: DictConfig) -> Any:
        if not is_rank_zero():
            logging.getLogger().setLevel(logging.WARNING)  # the first process says it for all
        try:
            _check_missing(config, missing, unneeded)
            return (resolve_name(run) if isinstance(run, str) else run)(config)
        except (*MENDABLE, RuntimeError, MemoryError) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
            short = _short_memory(cause)
            if os.environ.get("HYDRA_FULL_ERROR") == "1" or not (short or isinstance(error, MENDABLE)):
                raise cause from None
            short = short and f"memory is short: {short}; {ROOM.get(name, 'choose less at once')}"
            message = f"error: {short or full_disk(cause, _paths(config)) or _without_source(cause) or cause}"
            if in_sweep():
                raise CompactHydraException(message) from None
            print(message, file=sys.stderr)
            raise SystemExit(1) from None

    wrapped.__module__ = f"ldm.cli.{name}"  # whose last word is Hydra's name of the job
    return wrapped


def _paths(config: DictConfig) -> dict[str, str]:
    """Return those options of a config that are, or can be, paths of files or folders: name -> path."""
    values = {name: value for name, value in options_of(config).items() if isinstance(value, str) and "${" not in value}
    return {name: value for name, value in values.items() if name == "out" or os.sep in value or os.path.exists(value)}


def _short_memory(error: BaseException) -> str | None:
    """Return a description of the memory that an error says is missing; None for other errors."""
    from ldm.processes.memory import short_memory  # loads torch, as whatever needed so much has done

    return short_memory(error)


def _without_source(error: BaseException) -> str | None:
    """Return advice where an option takes its value from another that is missing; None for other errors."""
    if not isinstance(error, InterpolationKeyError):
        return None
    (reason, *_), option = str(error).splitlines(), error.full_key
    return f"the option {option} takes the value of one that these choices do not have ({reason}); type {option}=VALUE"
