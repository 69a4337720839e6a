"""Walks through the modules of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn


def outermost(module: nn.Module, is_wanted: Callable[[nn.Module], bool]) -> Iterator[nn.Module]:
    """Yield the wanted modules in a module, itself among them, that are not part of another wanted one.

    Args:
        module: The module.
        is_wanted: Whether a module is wanted.
    """
    if is_wanted(module):
        yield module
        return
    for child in module.children():
        yield from outermost(child, is_wanted)
