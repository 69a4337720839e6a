"""The Hydra helpers: composing the config tree, building objects from it, errors that help."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.arguments import MULTIRUN, TEXT_OPTIONS, quote_texts, quoted, why_no_option
from ldm.sweep import folder_name, in_sweep, remaining_trials, run_folder

CONFIGS = Path(__file__).resolve().parent.parent / "configs"

BRACED_OPTIONS = ("data.caption.fields", "data.buckets")
"""Options whose values are mappings."""


def register_resolvers() -> None:
    """Make our functions known to OmegaConf, for configs to use: `${best_precision:}` and so on."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("best_accelerator", best_accelerator, replace=True)
    OmegaConf.register_new_resolver("best_precision", best_precision, replace=True)
    OmegaConf.register_new_resolver("remaining_trials", remaining_trials, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("output_channels", output_channels, replace=True)


def best_accelerator() -> str:
    """The GPU where there is one with CUDA, else the CPU."""
    import torch  # not above: help and mistyped options shall be answered at once

    return "gpu" if torch.cuda.is_available() else "cpu"


def best_precision(accelerator: str) -> str:
    """bf16 autocast over fp32 weights where the accelerator computes in bf16 natively; else fp32."""
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = (
            torch.cpu.get_capabilities().get("avx512_bf16", False) if hasattr(torch.cpu, "get_capabilities") else False
        )
    return "bf16-mixed" if native else "32-true"


def output_channels(latent_channels: int, learned_variance: bool) -> int:
    """Those of a backbone: what it predicts has the latent's, and so has a learned variance."""
    return 2 * latent_channels if learned_variance else latent_channels


def compose(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config `configs/<name>.yaml` with overrides as on the command line."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose(name, overrides=quote_texts(overrides))


def build(node: Any) -> Any:
    """The object that a config node describes by `_target_` and arguments."""
    return instantiate(node, _convert_="all")


def build_literally(node: Any) -> Any:
    """Build the object that a config node describes, as `build` does, and take texts as they are.

    `build` reads values that interpolations gave a second time, and so stumbles over a prompt that holds `${`. In return there
    is only `_target_` here, no other key of Hydra's `instantiate`.
    """

    def made(part: Any) -> Any:
        if isinstance(part, list):
            return [made(one) for one in part]
        if not isinstance(part, dict):
            return part
        options = {key: made(value) for key, value in part.items() if key != "_target_"}
        return get_object(part["_target_"])(**options) if "_target_" in part else options

    return made(resolved(node))


def build_trusted(node: Any, packages: Sequence[str] = ("ldm",)) -> Any:
    """As `build`, for a plain config that came with somebody's file: only classes of these packages are constructed.

    Raises ValueError where the config asks for anything else, before anything is constructed.
    """
    for value in untrusted(node, packages):
        raise ValueError(
            f"this checkpoint asks to construct {value!r}, which is no class of {', '.join(packages)}; "
            "if you trust the file and the class is yours, name its package: load(path, packages=('ldm', 'mine'))"
        )
    return build(node)


def untrusted(node: Any, packages: Sequence[str]) -> Iterator[str]:
    """What a plain config would construct beside classes of these packages."""
    for key, value in _strings(node):
        if "${" in value or (key == "_target_" and not _is_class_of(value, packages)):
            yield value


def packages_of(node: Any) -> list[str]:
    """The packages whose classes a plain config names, `ldm` among them."""
    return sorted({"ldm"} | {value.split(".")[0] for key, value in _strings(node) if key == "_target_"})


def resolved(node: Any) -> Any:
    """A config node as plain dicts, lists and values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def differences(before: Any, after: Any, prefix: str = "") -> Iterator[str]:
    """Lines "key: before -> after" for all leaves in which two plain configs differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key), after.get(key), f"{prefix}{key}.")
    elif before != after:
        yield f"{prefix[:-1]}: {before} -> {after}"


def say_errors(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Let a program end with the message of an error that a user can mend, without a traceback.

    Inside a sweep the error is passed on, so that one bad run does not end the others; HYDRA_FULL_ERROR=1 shows all.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except (InstantiationException, OmegaConfBaseException, ValueError, OSError, ImportError) as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
            if in_sweep() or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise cause from None
            print(f"error: {_in_words(cause)}", file=sys.stderr)
            raise SystemExit(1) from None

    return run


def _in_words(error: BaseException) -> str:
    """OmegaConf's message about a missing value as what to type; other messages as they are."""
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if not isinstance(error, OmegaConfBaseException) or missing is None:
        return str(error)
    option = missing[1]
    if option == "name":
        return "no experiment was named; type python train.py experiment=txt2img, or --help for more"
    return f"the option {option} has no value; type {option}=VALUE, or --help for an example"


def check_options(name: str, arguments: Sequence[str]) -> None:
    """End the program with a suggestion where an option is mistyped or given twice; everything else is left to Hydra."""
    arguments = quote_texts(arguments)
    given = [argument.partition("=")[0] for argument in arguments]
    for option in (*TEXT_OPTIONS, *BRACED_OPTIONS):
        if (
            given.count(option) > 1
        ):  # a shell has made several of a value with braces, of which Hydra would take the last
            print(
                f"error: {option} is given {given.count(option)} times; give it once, in quotes: {option}='...'",
                file=sys.stderr,
            )
            raise SystemExit(1)
    if (wrong := unreadable(arguments)) is not None:
        print(f"error: {wrong}", file=sys.stderr)
        raise SystemExit(1)
    if any(argument.startswith("-") for argument in arguments):
        return
    try:
        compose(name, arguments)
    except ConfigCompositionException as error:
        found = re.search(r"Could not override '([^']+)'", f"{error} {error.__cause__}")
        if found is None or found[1] not in {argument.lstrip("+~").partition("=")[0] for argument in arguments}:
            return
        others = [argument for argument in arguments if argument.lstrip("+~").partition("=")[0] != found[1]]
        known = list(_leaves(OmegaConf.to_container(compose(name, others))))
        close = difflib.get_close_matches(found[1], known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see all options with --help"
        print(f"error: there is no option {found[1]}; {hint}", file=sys.stderr)
        raise SystemExit(1) from None


def unreadable(arguments: Sequence[str]) -> str | None:
    """Return what to do about the first argument that Hydra's grammar does not take; None where all are of it."""
    for place, argument in enumerate(arguments):
        flag = place > 0 and arguments[place - 1].startswith("-") and arguments[place - 1] not in MULTIRUN
        if argument.startswith(("-", "~")) or flag:
            continue
        name, equals, value = argument.partition("=")
        if not equals:
            return why_no_option(arguments, place)
        if name and _is_readable(argument):
            continue
        if name and _is_readable(option := f"{name}={quoted(value)}"):
            return (
                f"{argument} cannot be read; if its value is a text, put that in quotes of both kinds: {_shown(option)}"
            )
        return f"{argument} cannot be read: {name!r} is no name of an option; --help shows all options"
    return None


def _is_readable(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _shown(option: str) -> str:
    """An option with a value in single quotes as it can be typed into a shell."""
    name, _, value = option.partition("=")
    return f'{name}="{value}"' if not set(value) & set('"$`\\!') else shlex.quote(option)


def command(name: str, run: Callable[[DictConfig], Any]) -> None:
    """The program `python -m ldm.<part> option=value ...`: run something with `configs/<name>.yaml` and those options.

    `--help` prints the config with its comments. Mistakes that a user can mend end the program with a message.
    """
    arguments = sys.argv[1:]
    if not {"-h", "--help"}.isdisjoint(arguments):
        print((CONFIGS / f"{name}.yaml").read_text(), end="")
        return
    try:
        say_errors(lambda _: run(_options(name, arguments)))(OmegaConf.create())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def write_source(name: str, report: Callable[[Any], None]) -> None:
    """Run `python -m ldm.data.sources.<name> option=value ...`: hand the source of `configs/data/<name>.yaml` to `report`."""
    if not {"-h", "--help"}.isdisjoint(sys.argv[1:]):
        print((CONFIGS / "data" / f"{name}.yaml").read_text(), end="")
        print(f"# the options of `source` can be given: python -m ldm.data.sources.{name} size=64")
        return
    options = [f"data={name}", *(f"data.source.{option}" for option in sys.argv[1:])]
    check_options("train", options)
    say_errors(lambda config: report(build(config.data.source)))(compose("train", options))


def _options(name: str, arguments: Sequence[str]) -> DictConfig:
    """A program's config. Raises ValueError where the command line is not a list of options, or one is missing."""
    for argument in arguments:
        if argument.startswith(("-", "~")):
            raise ValueError(f"{argument!r} is not of the form option=value; --help shows all options")
    try:
        check_options(name, arguments)
        config = compose(name, arguments)
    except HydraException as error:
        raise ValueError(
            f"{' '.join(str(error).partition('See http')[0].split())}; --help shows all options"
        ) from error
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ValueError(f"the option {missing[0]} has no value; type {missing[0]}=VALUE, or --help for an example")
    return config


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Full names of all options of a plain config."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _leaves(value, f"{prefix}{key}.")


def is_rank_zero() -> bool:
    """Whether this process is the first, under torchrun, SLURM or Lightning's own launcher."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All strings in a plain config, keys and values, each with the key that it stands under."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield "", str(name)
            yield from _strings(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)
    elif isinstance(node, str):
        yield key, node


def _is_class_of(target: str, packages: Sequence[str]) -> bool:
    module_name, _, name = target.rpartition(".")
    if module_name.split(".")[0] not in packages:
        return False
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and found.__module__.split(".")[0] in packages
