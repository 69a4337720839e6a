"""Learning rates over time: a linear warm-up, then constant, or a decay to the last step, or both one after the other.

They are torch schedulers (`LambdaLR`), and any scheduler of torch or transformers can be used in their place. They are not
composed of torch's own `LinearLR`, `SequentialLR` and so on, since those compute each rate from the one before, so that rates
depend on rounding and a run that continues could differ in the last bit; and transformers' warm-ups begin with a rate of
zero, which wastes the first step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

STEP_OPTIONS = ("num_training_steps", "total_iters", "total_steps", "T_max")
"""Names that schedulers of torch and transformers give to the number of optimiser steps."""

SchedulerFactory = Callable[..., LRScheduler]
"""A scheduler without its optimizer: `_target_` with `_partial_: true` in a config."""


class ConstantWithWarmup(LambdaLR):
    """A learning rate that rises linearly to its full value and stays there, as in Rombach et al., 2022.

    Args:
        optimizer: The optimizer whose rates are set.
        warmup_steps: Optimiser steps until the full rate; the first step has 1 / warmup_steps of it.

    References:
        Goyal et al., 2017, section 2.2, arXiv:1706.02677.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int = 0) -> None:
        super().__init__(optimizer, lambda step: _warmup(step, warmup_steps))


class LinearWithWarmup(LambdaLR):
    """A learning rate that rises linearly, then falls linearly until the last step.

    Args:
        optimizer: The optimizer whose rates are set.
        num_training_steps: Optimiser steps of the whole training.
        warmup_steps: Optimiser steps until the full rate.
        final: Fraction of the full rate that is left at the last step, in [0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, *, num_training_steps: int, warmup_steps: int = 0, final: float = 0.0
    ) -> None:
        def rate(step: int) -> float:
            if step < warmup_steps:
                return _warmup(step, warmup_steps)
            return final + (1.0 - final) * (1.0 - _progress(step, warmup_steps, num_training_steps))

        super().__init__(optimizer, rate)


class CosineWithWarmup(LambdaLR):
    """A learning rate that rises linearly, then falls along half a cosine until the last step.

    Args:
        optimizer: The optimizer whose rates are set.
        num_training_steps: Optimiser steps of the whole training.
        warmup_steps: Optimiser steps until the full rate.
        final: Fraction of the full rate that is left at the last step, in [0, 1].

    References:
        Loshchilov & Hutter, 2017, eq. 5, arXiv:1608.03983.
    """

    def __init__(
        self, optimizer: Optimizer, *, num_training_steps: int, warmup_steps: int = 0, final: float = 0.0
    ) -> None:
        def rate(step: int) -> float:
            if step < warmup_steps:
                return _warmup(step, warmup_steps)
            left = 0.5 * (1.0 + math.cos(math.pi * _progress(step, warmup_steps, num_training_steps)))
            return final + (1.0 - final) * left

        super().__init__(optimizer, rate)


class ConstantWithCooldown(LambdaLR):
    """A learning rate that rises linearly, stays, and falls linearly over the last steps ("warmup-stable-decay").

    Most of what a falling rate gains is gained in the last tenth or fifth of a training. Until then the rate knows nothing of
    the end, so that a checkpoint from before the cooldown can be trained for longer.

    Args:
        optimizer: The optimizer whose rates are set.
        num_training_steps: Optimiser steps of the whole training.
        warmup_steps: Optimiser steps until the full rate.
        cooldown: Fraction of the steps in which the rate falls, the last ones, in [0, 1].
        final: Fraction of the full rate that is left at the last step, in [0, 1].

    References:
        Hägele et al., 2024, section 3, arXiv:2405.18392; Hu et al., 2024, section 4, arXiv:2404.06395.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        num_training_steps: int,
        warmup_steps: int = 0,
        cooldown: float = 0.1,
        final: float = 0.0,
    ) -> None:
        start = num_training_steps - round(cooldown * num_training_steps)

        def rate(step: int) -> float:
            falling = 1.0 - (1.0 - final) * max(0.0, _progress(step, start, num_training_steps))
            return _warmup(step, warmup_steps) * falling

        super().__init__(optimizer, rate)


def attach(scheduler: SchedulerFactory, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Make a scheduler for an optimizer.

    Args:
        scheduler: A factory that takes the optimizer, and the number of steps under one of the names `STEP_OPTIONS`.
        optimizer: The optimizer.
        steps: Optimiser steps of the whole training; a number that the factory holds already is left as it is.

    Returns:
        The scheduler, to be stepped once after every optimiser step.

    Raises:
        ValueError: If the scheduler wants a metric at each step.
    """
    made = scheduler(optimizer, **dict.fromkeys(step_options(scheduler), steps))
    if "metrics" in inspect.signature(made.step).parameters:
        raise ValueError(
            f"{type(made).__name__} changes the learning rate by a metric, but rates are set after every optimiser step; "
            "choose a scheduler that counts steps, like scheduler=cosine"
        )
    return made


def step_options(scheduler: SchedulerFactory) -> list[str]:
    """Return the names of a scheduler's arguments that take the number of steps; none where it does not depend on it."""
    held: Mapping[str, Any] = getattr(scheduler, "keywords", {})
    return [name for name in inspect.signature(scheduler).parameters if name in STEP_OPTIONS and name not in held]


def _warmup(step: int, warmup_steps: int) -> float:
    return (step + 1) / warmup_steps if step < warmup_steps else 1.0


def _progress(step: int, warmup_steps: int, steps: int) -> float:
    return min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
