"""Composing the config tree and building objects from it."""

from __future__ import annotations

import importlib
import inspect
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from ldm.options.arguments import SEARCH_PATH, quote_texts
from ldm.options.sweep import folder_name, remaining_trials, run_folder, study_storage

CONFIGS = (Path(__file__).parent / "configs").resolve()
"""The folder of the config tree: `configs/` of a checkout, to which a link leads, or what the wheel holds in its place."""


def register_resolvers() -> None:
    """Register the functions that configs use with OmegaConf: `${best_precision:}` and so on."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
    OmegaConf.register_new_resolver("best_accelerator", best_accelerator, replace=True)
    OmegaConf.register_new_resolver("best_precision", best_precision, replace=True)
    OmegaConf.register_new_resolver("remaining_trials", remaining_trials, replace=True)
    OmegaConf.register_new_resolver("study_storage", study_storage, replace=True)
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("output_channels", output_channels, replace=True)
    OmegaConf.register_new_resolver("sum", lambda *terms: sum(terms), replace=True)
    OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
    OmegaConf.register_new_resolver("steps_for", lambda images, batch: math.ceil(images / batch), replace=True)
    OmegaConf.register_new_resolver("is_given", lambda value: value is not None, replace=True)


def best_accelerator() -> str:
    """Return the GPU where there is one with CUDA, else the CPU."""
    import torch  # not above: help and mistyped options shall be answered at once

    return "gpu" if torch.cuda.is_available() else "cpu"


def best_precision(accelerator: str) -> str:
    """Return bf16 autocast over fp32 weights where the accelerator computes in bf16 natively; else fp32."""
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = (
            torch.cpu.get_capabilities().get("avx512_bf16", False) if hasattr(torch.cpu, "get_capabilities") else False
        )
    return "bf16-mixed" if native else "32-true"


def output_channels(latent_channels: int, learned_variance: bool) -> int:
    """Return the channels that a backbone puts out: the latent's, and as many for a learned variance."""
    return 2 * latent_channels if learned_variance else latent_channels


def compose(name: str, overrides: Sequence[str] = (), *, hydra_too: bool = False) -> DictConfig:
    """Compose a program's config.

    Args:
        name: The program's: the config is `configs/<name>.yaml`.
        overrides: Options and choices as on the command line.
        hydra_too: Keep Hydra's own node `hydra`, which says which choices were made.

    Returns:
        The config, interpolations not yet resolved.
    """
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra_compose(name, overrides=quote_texts(overrides), return_hydra_config=hydra_too)


def choices_of(name: str, groups: Iterable[str], overrides: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the choices that groups of configs have; what is no group is left out.

    Args:
        name: The program's: its config is `configs/<name>.yaml`.
        groups: Names of groups, like "sampler", or what may be some.
        overrides: A command line's; further folders of configs that it names are looked into, too.
    """
    folders = [override for override in overrides if override.startswith(SEARCH_PATH)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = {group: loader.get_group_options(group, config_name=name, overrides=folders) for group in groups}
    return {group: choices for group, choices in found.items() if choices}


def build(node: Any) -> Any:
    """Return the object that a config node describes by `_target_` and arguments."""
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
    """Build the object that a plain config describes, where the config came with a file of unknown origin.

    Args:
        node: The plain config.
        packages: Only classes of these packages are constructed.

    Raises:
        ValueError: The config asks for anything else; nothing was constructed then.
    """
    _check_trusted(node, packages)
    return build(node)


def trusted_class(node: Any, packages: Sequence[str] = ("ldm",)) -> type:
    """Return the class of what `build_trusted` would build; nothing is constructed.

    Raises:
        ValueError: The config asks for classes of other packages, or for none.
    """
    _check_trusted(node, packages)
    if not isinstance(node, dict) or "_target_" not in node:
        raise ValueError("this checkpoint does not say what kind of model it holds; give one that this program wrote")
    return class_of(node)


def class_name(node: Mapping[str, Any]) -> str:
    """Return the name of the class that a config node names by `_target_`, without its module; nothing is imported."""
    return str(node["_target_"]).rpartition(".")[2]


def class_of(node: Any) -> type:
    """Return the class that a config node names by `_target_`."""
    found: type = get_object(node["_target_"])
    return found


def _check_trusted(node: Any, packages: Sequence[str]) -> None:
    """Raise ValueError where a plain config would construct anything beside classes of these packages."""
    for value in untrusted(node, packages):
        raise ValueError(
            f"this checkpoint asks to construct {value!r}, which is no class of {', '.join(packages)}; "
            "if you trust the file and the class is yours, name its package: packages=[ldm,mine] on the command line, "
            "load(path, packages=('ldm', 'mine')) in Python"
        )


def untrusted(node: Any, packages: Sequence[str]) -> Iterator[str]:
    """Yield everything that a plain config would construct other than classes of these packages."""
    for key, value in _strings(node):
        if "${" in value or (key == "_target_" and not _is_class_of(value, packages)):
            yield value


def takes(target: str, option: str) -> bool:
    """Return whether a class or function, by its full name, has an argument of a name, or any."""
    parameters = inspect.signature(get_object(target)).parameters
    return option in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def packages_of(node: Any) -> list[str]:
    """Return the packages whose classes a plain config names, `ldm` among them."""
    return sorted({"ldm"} | {value.split(".")[0] for key, value in _strings(node) if key == "_target_"})


def resolved(node: Any) -> Any:
    """Return a config node as plain dicts, lists and values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def options_of(config: DictConfig) -> dict[str, Any]:
    """Return all options of a config, nodes as well as values: full name -> value, interpolations as they are written."""
    return dict(_options(OmegaConf.to_container(config)))


def value_of(options: Mapping[str, Any], name: str) -> Any:
    """Return the option of a plain config by its full name, with dots; None where there is none."""
    found: Any = options
    for key in name.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def differences(before: Any, after: Any, prefix: str = "") -> Iterator[str]:
    """Yield lines "key: before -> after" for all leaves in which two plain configs differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            yield from differences(before.get(key), after.get(key), f"{prefix}{key}.")
    elif before != after:
        yield f"{prefix[:-1]}: {before} -> {after}"


def is_rank_zero() -> bool:
    """Return whether this process is the first, under torchrun, SLURM or Lightning's own launcher."""
    return all(int(os.environ.get(name, 0)) == 0 for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _options(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full names and values of all options of a plain config."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from _options(value, f"{prefix}{key}.")


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all strings in a plain config, keys and values, each with the key that it stands under."""
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
