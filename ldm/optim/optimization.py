"""The trained parameters of a module, and the clipping of their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn


class Trained:
    """The parameters of a module that are not frozen, as pairs of name and parameter, which any optimizer of torch takes.

    Args:
        module: The module that is trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, part) for name, part in self.module.named_parameters() if part.requires_grad)

    @property
    def linear(self) -> set[str]:
        """The names of the matrices of linear layers, trained or not: not of tables, like those of tokens and positions."""
        return {f"{name}.weight" for name, part in self.module.named_modules() if isinstance(part, nn.Linear)}


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale gradients down so that their norm, over all of them together, is at most a limit.

    Args:
        parameters: The parameters whose gradients are scaled.
        limit: The largest norm; None: leave the gradients as they are.

    Returns:
        The norm before, a scalar.
    """
    parameters = list(parameters)
    if limit is None:
        return nn.utils.get_total_norm([part.grad for part in parameters if part.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, limit)
