"""What makes a program wait for a GPU, counted on the second device of `tests.second_device`."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.second_device import INDEXING, SECOND, There

aten = torch.ops.aten

READING = (
    aten._local_scalar_dense,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.unique_dim,
)
"""Operations whose result, or its shape, the program must know: float(x), if x, ..."""


class Waits(TorchDispatchMode):
    """Finds the operations that wait for the second device, while the block runs.

    They are those that read values, that index by booleans, and copies between the devices that are not in the background.

    Attributes:
        found: The operations, each with the place in the project that calls it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._waits(func.overloadpacket, args, kwargs):
            called = [frame for frame in traceback.extract_stack() if "/ldm/" in frame.filename]
            place = f"{called[-1].filename.rpartition('/ldm/')[2]}:{called[-1].lineno}" if called else "a test"
            self.found.append(f"{func} in {place}")
        return func(*args, **kwargs)

    def _waits(self, operation: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        there = any(isinstance(part, There) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor))
        if operation is aten._to_copy:
            device = torch.device(kwargs.get("device") or args[0].device)
            other = isinstance(args[0], There) != (device == SECOND)
            return other and (there or not kwargs.get("non_blocking"))
        if operation is aten.copy_:
            return isinstance(args[0], There) != isinstance(args[1], There)
        if operation in INDEXING:
            return there and any(part is not None and part.dtype == torch.bool for part in args[1])
        return there and operation in READING
