"""The time of a training step on the machine at hand, from the times of its operators, each measured by itself."""

from __future__ import annotations

import copy
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import count
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils._pytree import tree_unflatten
from tqdm.auto import tqdm

from ldm.config import build
from ldm.optim.optimization import Trained, clip_gradients
from ldm.plan.count import Allocations, Call, TensorSpec
from ldm.plan.kernels import DeviceKernels
from ldm.plan.memory import averages_kept
from ldm.plan.workload import Workload

LEAST_SECONDS = 0.01
"""Seconds for which an operator is called repeatedly, at least `LEAST_CALLS` times and at most `MOST_CALLS` times."""

LEAST_CALLS, MOST_CALLS = 3, 50

COLD_BYTES = 2**26
"""Total bytes of the copies of its tensors that an operator takes in turn, since in a step caches hold other tensors."""

MOST_COPIES = 64


class StepTime(NamedTuple):
    """The predicted seconds of a training step.

    Attributes:
        operators: Seconds of all operators of a batch's forward and backward pass.
        update: Seconds of clipping, the optimiser's step and the averages, once a step.
        distinct: Number of different operators that were timed.
        failed: Names of operators that could not be called by themselves.
    """

    operators: float
    update: float
    distinct: int
    failed: tuple[str, ...]


def recorded_calls(
    workload: Workload, images: int, *, accelerator: str, autocast: bool, adversarial: bool = True
) -> Counter[Call]:
    """Return the operators of a batch's forward and backward pass, and how often each is called.

    Args:
        workload: The stage, on the meta device.
        images: Images at once.
        accelerator: "gpu" or "cpu".
        autocast: Whether bf16 autocast is on.
        adversarial: Whether the discriminator takes part.
    """
    allocations = Allocations(calls=True)
    batch = workload.batch(images)
    with DeviceKernels(accelerator=accelerator, autocast=autocast), allocations:
        workload.step(batch, adversarial=adversarial)
    for part in workload.task.parameters():
        part.grad = None
    return allocations.calls


def predict_step(
    workload: Workload, calls: Counter[Call], device: torch.device, timed: dict[Call, float | None]
) -> StepTime:
    """Measure each operator of a step, and what follows the backward pass, and add their times up.

    Args:
        workload: The stage, on the meta device.
        calls: The operators of a batch.
        device: The device to measure on.
        timed: Seconds of operators that were measured before, None where that failed; what is measured is added.
    """
    for call in tqdm(
        [call for call in calls if call not in timed], desc="timing operators", unit="operator", leave=False
    ):
        try:
            timed[call] = time_call(call, device)
        except (RuntimeError, NotImplementedError, TypeError):
            timed[call] = None
    seconds = sum(number * (timed[call] or 0.0) for call, number in calls.items())
    failed = [str(call.operator) for call in calls if timed[call] is None]
    return StepTime(seconds, time_update(workload, device), len(calls), tuple(sorted(set(failed))))


def time_call(call: Call, device: torch.device) -> float:
    """Return the median seconds of an operator on tensors with random values.

    Args:
        call: The operator and its arguments.
        device: The device of the tensors.
    """
    specs = [leaf for leaf in call.arguments if isinstance(leaf, TensorSpec)]
    size = sum(_extent(spec) * spec.dtype.itemsize for spec in specs)
    copies = max(1, min(MOST_COPIES, COLD_BYTES // max(size, 1)))
    memories = [_memory(leaf, device) for leaf in _as_on(call, device) if isinstance(leaf, TensorSpec)]
    given = [_arguments(call, device, [memory.clone() for memory in memories]) for _ in range(copies)]
    turns = count()
    kept: deque[Any] = deque(maxlen=copies)

    def once() -> None:
        args, kwargs = given[next(turns) % copies]
        kept.append(call.operator(*args, **kwargs))

    return time_median(once, device)


def time_update(workload: Workload, device: torch.device) -> float:
    """Return the median seconds of clipping gradients, the optimiser's step and the averages, on weights of zero.

    Args:
        workload: The stage, on the meta device.
        device: The device to measure on.
    """
    seconds = 0.0
    for module in workload.trained():
        real = _copy(module, device)
        weights = [part for part in real.parameters() if part.requires_grad]
        optimizer = build(workload.stage.optimizer)(Trained(real))
        averages = [[part.detach().clone() for part in weights] for _ in range(averages_kept(workload.stage))]
        average = get_ema_multi_avg_fn(0.999)

        @torch.no_grad()
        def once() -> None:
            for part in weights:  # noqa: B023  called at once
                part.grad = part.grad if part.grad is not None else torch.zeros_like(part)
            clip_gradients(weights, workload.stage.trainer["gradient_clip_val"])  # noqa: B023
            optimizer.step()  # noqa: B023
            for one in averages:  # noqa: B023
                average(one, weights, 1)  # noqa: B023

        seconds += time_median(once, device)
    return seconds


def time_median(once: Callable[[], None], device: torch.device) -> float:
    """Return the median seconds of something that is done again and again.

    Args:
        once: Does it once.
        device: The device that does it, for whose end is waited.
    """
    once()
    found: list[float] = []
    while len(found) < LEAST_CALLS or (sum(found) < LEAST_SECONDS and len(found) < MOST_CALLS):
        _wait(device)
        start = time.perf_counter()
        once()
        _wait(device)
        found.append(time.perf_counter() - start)
    return median(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copy(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    real = copy.deepcopy(module).to_empty(device=device)
    with torch.no_grad():
        for part in real.parameters():
            part.zero_()
    return real


def _arguments(call: Call, device: torch.device, memories: Sequence[Tensor]) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the arguments of a call, whose tensors lie in some memories, one for each."""
    left = iter(memories)
    leaves: list[Any] = []
    for leaf in _as_on(call, device):
        if isinstance(leaf, TensorSpec):
            leaves.append(next(left).as_strided(leaf.shape, leaf.stride))
        else:
            leaves.append(device if isinstance(leaf, torch.device) else leaf)
    args, kwargs = tree_unflatten(leaves, call.structure)
    return args, kwargs


def _as_on(call: Call, device: torch.device) -> tuple[Any, ...]:
    """Return the arguments as the device has them: CPUs keep means and deviations in the type of the weight."""
    if device.type != "cpu" or call.operator is not torch.ops.aten.native_group_norm_backward.default:
        return call.arguments
    gradient, images, mean, deviation, weight, *others = call.arguments
    if not isinstance(weight, TensorSpec):
        return call.arguments
    mean, deviation = mean._replace(dtype=weight.dtype), deviation._replace(dtype=weight.dtype)
    return gradient, images, mean, deviation, weight, *others


def _memory(spec: TensorSpec, device: torch.device) -> Tensor:
    """Return random values, or zeros where they are whole numbers, as many as the memory of a tensor holds."""
    extent = _extent(spec)
    if spec.dtype.is_floating_point:
        return torch.randn(extent, device=device).mul_(0.1).to(spec.dtype)
    return torch.zeros(extent, dtype=spec.dtype, device=device)


def _extent(spec: TensorSpec) -> int:
    """Return the number of elements of the memory in which a tensor lies."""
    if 0 in spec.shape:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(spec.shape, spec.stride, strict=True))
