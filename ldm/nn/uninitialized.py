"""Building of networks whose weights are read from a file, without the time that random weights take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class Uninitialized(TorchFunctionMode):
    """A context in which parameters of new networks keep whatever their memory held, and so cost neither time nor memory.

    Functions in place, whose names end with "_", do nothing to them. Buffers are made as always.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, unless it would fill a parameter."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        filled = kwargs.get("tensor", args[0] if args else None)  # the functions of torch.nn.init are called with names
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place and isinstance(filled, nn.Parameter):
            return filled
        return func(*args, **kwargs)
