"""What is trained, and learning rates over time, the same for all stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Trained:
    """The parameters of a module that are not frozen, in pairs of name and parameter, which any optimiser of torch takes.

    module  that is trained
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, part) for name, part in self.module.named_parameters() if part.requires_grad)

    @property
    def linear(self) -> set[str]:
        """Names of the matrices of linear layers, trained or not: not of tables, like those of tokens and positions."""
        return {f"{name}.weight" for name, part in self.module.named_modules() if isinstance(part, nn.Linear)}


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scale gradients down to a norm, over all of them together, that is at most `limit`; None: leave them as they are.

    Returns the norm before.
    """
    parameters = list(parameters)
    if limit is None:
        return nn.utils.get_total_norm([part.grad for part in parameters if part.grad is not None])
    return nn.utils.clip_grad_norm_(parameters, limit)


class LearningRate:
    """Linear warm-up, then constant, linear or cosine decay to a share of the learning rate.

    warmup_steps  steps from zero to the full rate
    decay         "constant" (the paper's), "linear" or "cosine"
    final         share of the rate that is left at the last step, in [0, 1]

    Paper: Goyal et al., 2017, section 2.2 (warm-up), arXiv:1706.02677; Loshchilov & Hutter, 2017, eq. 5 (cosine),
    arXiv:1608.03983.
    """

    def __init__(
        self, *, warmup_steps: int = 0, decay: Literal["constant", "linear", "cosine"] = "constant", final: float = 0.0
    ) -> None:
        if decay not in ("constant", "linear", "cosine"):
            raise ValueError(f"decay is 'constant', 'linear' or 'cosine'; got {decay!r}")
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.final = final

    def share(self, step: int, steps: int) -> float:
        """Share of the full rate at a step of `steps`, in [0, 1]."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.decay == "constant":
            return 1.0
        done = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        left = 1.0 - done if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.final + (1.0 - self.final) * left

    def schedule(self, optimizer: Optimizer, steps: int) -> LambdaLR:
        """The torch scheduler, to be stepped once an optimiser step."""
        return LambdaLR(optimizer, lambda step: self.share(step, steps))
