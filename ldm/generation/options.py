"""Options that belong to modes, and the error where one is given with another mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

GROUP = "mode"


def mode_options(folders: Sequence[Path]) -> dict[str, set[str]]:
    """Return mode -> its own options, as the files of the modes have them.

    Args:
        folders: Folders of configs, with a folder `mode` in them or without.
    """
    files = sorted((file for folder in folders for file in (folder / GROUP).glob("*.yaml")), key=lambda file: file.stem)
    return {file.stem: {str(key) for key in _load(file)} - {GROUP, "defaults", "hydra"} for file in files}


def misplaced(arguments: Sequence[str], configs: Path, further: Sequence[Path] = ()) -> str | None:
    """Return an error about the first option that belongs to other modes than the chosen one; None where there is none.

    Args:
        arguments: The options of a command line.
        configs: The folder of `sample.yaml`, which says what mode there is where none is chosen.
        further: Further folders of configs, like those that `--config-dir` names.
    """
    modes = mode_options([configs, *further])
    given = [argument.partition("=") for argument in arguments]
    chosen = [value for name, _, value in given if name == GROUP] or [
        str(entry[GROUP]) for entry in _load(configs / "sample.yaml").defaults if GROUP in entry
    ]
    for mode in chosen[-1].split(","):  # several in a sweep
        for option, equals, _ in given:
            owners = [name for name, options in modes.items() if option in options]
            if equals and mode in modes and owners and mode not in owners:
                return f"{option} has no meaning for mode={mode}; with it, say mode={' or mode='.join(owners)}"
    return None


def _load(file: Path) -> DictConfig:
    """Return the content of a file of configs, without what it builds on."""
    content = OmegaConf.load(file)
    assert isinstance(content, DictConfig), f"{file} holds no options"
    return content
