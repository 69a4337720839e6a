"""Counting what a computation allocates, keeps and calls, while it runs on tensors of any device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.flop_counter import FlopCounterMode


class TensorSpec(NamedTuple):
    """The shape, strides and type of a tensor, by which one like it can be made."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Call(NamedTuple):
    """A call of one of torch's operators: its arguments, flattened, with the specs of tensors in their place."""

    operator: Any
    arguments: tuple[Any, ...]
    structure: Any


class Allocations(TorchDispatchMode):
    """Follows the tensors that a computation makes, from their birth to their death.

    Args:
        device: Only tensors of this device are followed.
        calls: Whether the calls of operators are counted, too.

    Attributes:
        live: Bytes that are alive now.
        peak: Most bytes that were alive at a time.
        at_peak: Called whenever more bytes are alive than ever before.
        calls: Each call of an operator and how often it was made.
    """

    def __init__(self, device: torch.device | str = "meta", *, calls: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = torch.device(device)
        self.live = 0
        self.peak = 0
        self.calls: Counter[Call] = Counter()
        self.at_peak: Callable[[], None] = lambda: None
        self._counts_calls = calls
        self._known: set[int] = set()

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Mark tensors as known, so that they are not counted as new."""
        for tensor in tensors:
            self._begin(tensor, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator, and count what it has made."""
        kwargs = kwargs or {}
        if self._counts_calls:
            self.calls[_call(func, args, kwargs)] += 1
        made = func(*args, **kwargs)
        tree_map_only(Tensor, self._see, made)
        return made

    def _see(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == self.device.type:
            self._begin(tensor, tensor.untyped_storage().nbytes())
        return tensor

    def _begin(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known:
            return
        self._known.add(key)
        weakref.finalize(storage, self._end, key, size)
        self.live += size
        if self.live > self.peak:
            self.peak = self.live
            self.at_peak()

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class SavedBytes:
    """Counts the bytes that autograd keeps for the backward pass, each memory once, but for those of known tensors.

    Args:
        known: Tensors that are there anyway: parameters and buffers.

    Attributes:
        live: Bytes that are kept now.
        most: Most bytes that were kept at a time.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self.live = 0
        self.most = 0
        self._known = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in known)}
        self._kept: set[int] = set()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved within."""
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._known and key not in self._kept:
            self._kept.add(key)
            self.live += storage.nbytes()
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._end, key, storage.nbytes())
        return tensor

    def _end(self, key: int, size: int) -> None:
        self._kept.discard(key)
        self.live -= size


@contextmanager
def counted_flops(into: Callable[[int], None]) -> Iterator[FlopCounterMode]:
    """Count floating-point operations within, a multiplication and an addition as two, and hand their number over."""
    with FlopCounterMode(display=False) as counter:
        yield counter
    into(counter.get_total_flops())


def _call(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
    leaves, structure = tree_flatten((tuple(args), kwargs))
    return Call(func, tuple(map(_spec, leaves)), structure)


def _spec(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return TensorSpec(tuple(leaf.shape), tuple(leaf.stride()), leaf.dtype)
    return leaf
