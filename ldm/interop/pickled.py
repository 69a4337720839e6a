"""Weights in files of torch, read without executing anything, even where old programs have pickled objects beside them."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PICKLES = 4
"""The pickles at the beginning of a file of torch before 1.6: magic number, protocol, system, content."""


RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules of Python 2, by whose names old pickles call them -> those of today."""


class Inert(dict[Any, Any]):
    """A stand-in for an object of a class that is not needed: it takes whatever it is given, and does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Forget a state."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Return a hash of the object, which may be a key of a dictionary."""
        return id(self)


def read_pickled(file: Path) -> dict[str, Any]:
    """Read a file that `torch.save` wrote; tensors stay on disk until they are used.

    Tensors and plain values are read. Objects of other classes, like the callbacks and options that old versions of Lightning
    pickled beside the weights, become empty stand-ins; no code of theirs is looked for or run.

    Args:
        file: The file.

    Returns:
        What was saved.

    Raises:
        ValueError: If the file is damaged, or holds no dictionary.
    """
    zipped = zipfile.is_zipfile(file)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file) if zipped else list(_globals(file))
        stand_ins: Any = [(Inert, name) for name in foreign]
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = (str(error) or type(error).__name__).partition("\n")[0] if zipped else "it is a file of another kind"
        raise ValueError(
            f"{file} is not a checkpoint that can be loaded safely: {reason}; give a run folder or a .safetensors or .ckpt file"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, not weights by name")
    return content


def holds_stand_in(value: object) -> bool:
    """Return whether plain values hold, at any depth, a stand-in for an object of a class that was not read."""
    if isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert)):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(map(holds_stand_in, parts))


def _globals(file: Path) -> Iterator[str]:
    """Yield the names of the classes and functions that the pickles of an old file ask for, but those that torch knows."""
    known = {"collections.OrderedDict", *(f"torch.{name}" for name in dir(torch) if name.endswith("Storage"))}
    known |= {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
    found: set[str] = set()
    with file.open("rb") as stream:
        for _ in range(PICKLES):
            for operation, argument, _place in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    found.add(f"{RENAMED.get(module, module)}.{name}")
    yield from sorted(found - known)
