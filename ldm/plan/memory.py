"""The memory of a device in training, part by part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from ldm.config import build
from ldm.optim.optimization import Trained
from ldm.plan.count import Allocations, SavedBytes
from ldm.plan.kernels import DeviceKernels
from ldm.plan.workload import Workload
from ldm.training.stage import Stage


class Resident(NamedTuple):
    """The bytes that are there all the time.

    Attributes:
        trained: Weights that are trained, in fp32.
        frozen: Weights and buffers that are not.
        optimizer: The optimiser's state.
        averages: Averaged weights (EMA).
        buckets: Buffers in which gradients travel between processes; 0 with one process.
    """

    trained: int
    frozen: int
    optimizer: int
    averages: int
    buckets: int


class StepMemory(NamedTuple):
    """The bytes that a training step adds, when most are there at a time.

    Attributes:
        gradients: Gradients of weights.
        activations: Tensors that are kept for the backward pass.
        casts: Copies of weights in the lower precision.
        batch: The batch itself.
        temporary: All else.
    """

    gradients: int
    activations: int
    casts: int
    batch: int
    temporary: int

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self)


def resident_memory(workload: Workload, *, processes: int) -> Resident:
    """Return the bytes that are there all the time.

    Args:
        workload: The stage.
        processes: Number of processes.
    """
    task, stage = workload.task, workload.stage
    parameters = list(task.parameters())
    trained = sum(part.nbytes for part in parameters if part.requires_grad)
    everything = sum(part.nbytes for part in (*parameters, *task.buffers()))
    return Resident(
        trained=trained,
        frozen=everything - trained,
        optimizer=sum(optimizer_bytes(stage, module) for module in workload.trained()),
        averages=trained * averages_kept(stage),
        buckets=trained if processes > 1 else 0,
    )


def averages_kept(stage: Stage[Any]) -> int:
    """Return the number of averages of the weights that a stage keeps in memory."""
    power = stage.callback_configs.get("power_ema") or {}
    return int(stage.callback_configs.get("ema") is not None) + len(power.get("lengths", ()))


def optimizer_bytes(stage: Stage[Any], module: nn.Module) -> int:
    """Return the bytes of the state that an optimiser keeps of a module.

    A step is made on a copy whose weights have one element each; the tensors that the optimiser then keeps of a weight of more
    dimensions are counted as often as that has elements.

    Args:
        stage: The stage, which knows the optimiser.
        module: The trained module.
    """
    small = copy.deepcopy(module)
    sizes: dict[int, int] = {}
    for name, large in module.named_parameters():
        holder, _, last = name.rpartition(".")
        one = nn.Parameter(torch.zeros((1,) * large.ndim), requires_grad=large.requires_grad)
        small.get_submodule(holder).register_parameter(last, one)
        if large.requires_grad:
            one.grad = torch.zeros_like(one)
        sizes[id(one)] = large.numel()
    optimizer: Optimizer = build(stage.optimizer)(Trained(small))
    optimizer.step()
    found = 0
    for part, state in optimizer.state.items():
        for kept in state.values():
            if isinstance(kept, torch.Tensor):
                found += kept.element_size() * (sizes[id(part)] if kept.ndim == part.ndim else 1)
    return found


def step_memory(
    workload: Workload, images: int, *, accelerator: str, autocast: bool, accumulate: int = 1, adversarial: bool = True
) -> StepMemory:
    """Count the bytes that a training step adds to those that are there all the time, when they are most.

    Args:
        workload: The stage, on the meta device.
        images: Images at once on a device.
        accelerator: "gpu" or "cpu".
        autocast: Whether bf16 autocast is on.
        accumulate: Batches an optimiser step; with more than one, gradients are there when the second begins.
        adversarial: Whether the discriminator takes part.
    """
    parameters = list(workload.task.parameters())
    known = [*parameters, *workload.task.buffers()]
    batch = workload.batch(images)
    fields = [value for value in batch.fields.values() if isinstance(value, torch.Tensor)]
    allocations, saved = Allocations(), SavedBytes([*known, *fields])
    allocations.know([*known, *fields])
    kernels = DeviceKernels(accelerator=accelerator, autocast=autocast)
    at_peak = {"gradients": 0, "saved": 0, "casts": 0}

    def look() -> None:
        at_peak["gradients"] = sum(part.grad.nbytes for part in parameters if part.grad is not None)
        at_peak["saved"] = saved.live
        at_peak["casts"] = kernels.cast_bytes

    allocations.at_peak = look
    for _ in range(2 if accumulate > 1 or workload.keeps_gradients else 1):
        with kernels, allocations, saved.counting():
            workload.step(batch, adversarial=adversarial)
        kernels.forget()
    for part in parameters:
        part.grad = None
    casts = min(at_peak["casts"], at_peak["saved"])
    kept = at_peak["saved"] - casts
    return StepMemory(
        gradients=at_peak["gradients"],
        activations=kept,
        casts=casts,
        batch=sum(field.nbytes for field in fields),
        temporary=allocations.peak - at_peak["gradients"] - kept - casts,
    )


def as_rows(resident: Resident, step: StepMemory) -> Mapping[str, int]:
    """Return name -> bytes of all that is in memory when most is."""
    return {
        "weights, trained": resident.trained,
        "weights, frozen": resident.frozen,
        "optimiser": resident.optimizer,
        "averages": resident.averages,
        "buckets of gradients": resident.buckets,
        "gradients": step.gradients,
        "weights cast to bf16": step.casts,
        "activations": step.activations,
        "batch": step.batch,
        "temporary": step.temporary,
    }
