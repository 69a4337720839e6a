"""A second device for tests on machines that have one alone: what a GPU would refuse, it refuses, and it computes on the CPU.

Tensors of it say that they are on torch's device "meta", and hold their values all the same. An operation on tensors of both
devices raises an error, as on a GPU, and so does a generator of the CPU that is to fill a tensor of the other device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ldm.pretrained import precision

SECOND = torch.device("meta")

REFUSED: set[torch.dtype] = set()
"""Types of numbers that it does not have."""

aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy_)
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index)
"""What may take indices of the CPU."""


class There(Tensor):
    """A tensor of the second device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype, device=SECOND
        )  # fmt: skip
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.values.tolist()


class _Mode(TorchDispatchMode):
    """Computes on the second device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _values(part: Any) -> Any:
    return part.values if isinstance(part, There) else part


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
    asked = kwargs.get("device")
    there = torch.device(asked) == SECOND if asked is not None else any(isinstance(one, There) for one in tensors)
    others = [one for one in tensors if not isinstance(one, There) and one.ndim > 0]
    if name in INDEXING and isinstance(args[0], There):
        others = []
    if len(others) not in (0, len(tensors)) and any(isinstance(one, There) for one in tensors) and name not in COPIES:
        raise RuntimeError(f"{func} gets tensors of two devices, of shapes {[tuple(one.shape) for one in tensors]}")
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func} gets a generator of the CPU for a tensor of another device")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    if name is aten.copy_:
        return args[0]
    if name is aten._to_copy:
        found = found.clone() if found is _values(args[0]) else found

    def on_device(part: Any) -> Any:
        if there and isinstance(part, Tensor) and part.dtype in REFUSED:
            raise TypeError(f"{func} gives {part.dtype}, which the device does not have")
        same = next((one for one in tensors if _values(one) is part), None)
        if same is not None or not isinstance(part, Tensor):
            return part if same is None else same
        return There(part) if there else part

    return tree_map(on_device, found)


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores if attn_mask is None else scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1) @ value


@contextmanager
def second_device(*, float64: bool = True) -> Iterator[torch.device]:
    """Give the second device, which exists while the block runs.

    Args:
        float64: Whether it has float64; Apple's GPUs have none.
    """
    make, convert, autocast = torch.tensor, torch.as_tensor, torch.autocast

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = make(data, **options)
        return made if device is None else made.to(device)

    def as_tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = data.to(**options) if isinstance(data, Tensor) else convert(data, **options)
        return made if device is None else made.to(device)

    def new_tensor(self: Tensor, data: Any) -> Tensor:
        return make(data, dtype=self.dtype).to(self.device)

    class Autocast(autocast):
        def __init__(self, device_type: str, **options: Any) -> None:
            super().__init__("cpu" if device_type == SECOND.type else device_type, **options)

    with pytest.MonkeyPatch.context() as patch, _Mode():  # these take another way for this kind of tensors
        if not float64:
            patch.setattr(precision, "NO_FLOAT64", {SECOND.type})
            patch.setattr("tests.second_device.REFUSED", {torch.float64})
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(torch, "as_tensor", as_tensor)
        patch.setattr(torch, "autocast", Autocast)
        patch.setattr(There, "new_tensor", new_tensor)
        patch.setattr(F, "scaled_dot_product_attention", _attention)
        yield SECOND
