"""The plan of one stage: all its figures, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ldm.callback.activation_checkpointing import checkpoint_activations, keep_activations
from ldm.plan.calibrate import predict_step, recorded_calls
from ldm.plan.count import Call
from ldm.plan.figure import COUNTED, ESTIMATED, MEASURED, Figure, shown
from ldm.plan.kernels import contexts_again
from ldm.plan.latent_workload import LatentWorkload
from ldm.plan.memory import Resident, StepMemory, as_rows, resident_memory, step_memory
from ldm.plan.operations import Operations, count_operations, is_full
from ldm.plan.speed import Speed, estimate_speed
from ldm.plan.storage import cache_advice, cache_rows, disk_rows
from ldm.plan.workload import Workload


@dataclass
class StagePlan:
    """The figures of a stage.

    Attributes:
        name: Name of the stage.
        sections: Title of a group of figures -> the figures.
        lines: Further lines of text.
        refusal: Why the stage cannot be trained so, and what to type instead; None: it can.
    """

    name: str
    sections: dict[str, list[Figure]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    refusal: str | None = None

    def find(self, section: str, name: str) -> float:
        """Return a figure by its group and name."""
        return next(row.value for row in self.sections[section] if row.name == name)


@dataclass(frozen=True)
class Machine:
    """The devices of a plan.

    Attributes:
        options: The options of `configs/hardware/*.yaml`.
        gpus: Devices that train together.
        memory: Bytes of each that training may use.
        autocast: Whether bf16 autocast is on.
    """

    options: Mapping[str, Any]
    gpus: int
    memory: float
    autocast: bool

    @property
    def device(self) -> torch.device:
        """The device of this machine, for measurements."""
        return torch.device("cuda" if self.options["accelerator"] == "gpu" else "cpu")


def plan_stage(workload: Workload, machine: Machine, *, images: float | None) -> StagePlan:
    """Plan a stage.

    Args:
        workload: The stage, on the meta device.
        machine: The devices.
        images: Images of the training set; None: unknown.
    """
    stage = workload.stage
    plan = StagePlan(stage.name, lines=[f"not counted: {text}" for text in workload.missing])
    plan.sections["parameters"] = list(_parameters(workload))
    operations = count_operations(workload)
    plan.sections["operations of an image"] = list(_operations(workload, operations))
    resident = resident_memory(workload, processes=machine.gpus)
    micro = stage.batch_size // (machine.gpus * stage.accumulate)
    rows = _memory(workload, resident, machine, micro, stage.accumulate)
    plan.sections[f"memory of a device, {micro} images at once"] = rows
    plan.refusal = refusal(workload, resident, machine, micro=micro, needed=rows[-1].value)
    if plan.refusal is not None and machine.options["calibrate"]:
        plan.lines.append("not measured: the time of a step, which does not fit in the memory of this machine")
    speed = None
    if plan.refusal is None or not machine.options["calibrate"]:
        speed = _speed(workload, operations, resident, machine, micro)
        plan.sections["time"] = list(_time(workload, speed, machine, micro, images=images))
    disk = list(disk_rows(workload, resident, images=images))
    if isinstance(workload, LatentWorkload):
        disk += cache_rows(workload, images=images)
        if workload.cached:
            plan.lines.append("cache the latents: training reads cached ones already")
        elif speed is not None and not stage.run.autoencoder_copies:
            share = speed.encoder * micro * stage.accumulate / speed.step(micro * stage.accumulate)
            plan.lines += cache_advice(
                workload, images=images, share=share, encode_seconds=speed.encoder, gpus=machine.gpus
            )
    plan.sections["disk"] = disk
    return plan


def refusal(workload: Workload, resident: Resident, machine: Machine, *, micro: int, needed: float) -> str | None:
    """Return a message on why a stage does not fit in a device's memory, and what would make it fit; None where it fits.

    Args:
        workload: The stage, on the meta device.
        resident: The bytes that are in memory all the time.
        machine: The devices.
        micro: Images at once on each.
        needed: Bytes that are needed.
    """
    if needed <= machine.memory:
        return None
    stage = workload.stage
    each = stage.batch_size // machine.gpus
    option = f"stage.{stage.name}.trainer.accumulate_grad_batches"
    need = (
        f"the stage {stage.name} needs {shown(needed, 'bytes')} on each device with {micro} images at once, and a device has "
        f"{shown(machine.memory, 'bytes')} for it"
    )
    accumulate = _least_accumulation(workload, resident, machine, now=needed)
    if accumulate is not None:
        more = machine.gpus * accumulate // stage.accumulate
        others = "" if stage.batch_size % (more * stage.accumulate) else f", or gpus={more}"
        hint = "" if workload.recomputes else ", and more with activation_checkpointing=true"
        return f"{need}; {each // accumulate} images at once fit{hint}: type {option}={accumulate}{others}"
    least = _needed(workload, resident, machine, 1, each)
    if not workload.recomputes:
        checkpoint_activations(workload.task, contexts_again)
        accumulate = _least_accumulation(workload, resident, machine)
        keep_activations(workload.task)
    if accumulate is not None:
        parts = "" if accumulate == stage.accumulate else f" {option}={accumulate}"
        return (
            f"{need}; {each // accumulate} images at once fit where the inside of blocks is computed again in the backward pass: "
            f"type activation_checkpointing=true{parts}"
        )
    return (
        f"{need}; one image at once needs {shown(least, 'bytes')}, of which {shown(sum(resident), 'bytes')} are weights, "
        "averages and the optimiser's state: choose hardware with more memory, or a smaller network"
    )


def _least_accumulation(
    workload: Workload, resident: Resident, machine: Machine, *, now: float | None = None
) -> int | None:
    """Return the least accumulation with which a stage fits; None where one image at once does not.

    Args:
        workload: The stage, on the meta device.
        resident: The bytes that are in memory all the time.
        machine: The devices.
        now: Bytes that are needed with the stage's own accumulation; None: they are not counted yet.
    """
    stage = workload.stage
    each = stage.batch_size // machine.gpus
    choices = [number for number in range(stage.accumulate, each + 1) if each % number == 0]
    found = {} if now is None else {stage.accumulate: now}

    def needed(accumulate: int) -> float:
        if accumulate not in found:
            found[accumulate] = _needed(workload, resident, machine, each // accumulate, accumulate)
        return found[accumulate]

    fixed = sum(resident)
    # Memory is about linear in the images, so that one of the next choices is the right one.
    image = (needed(choices[0]) - fixed) / (each // choices[0])
    guess = [number for number in choices if fixed + image * (each // number) <= machine.memory]
    return least_that_fits(choices, lambda number: needed(number) <= machine.memory, first=guess[0] if guess else None)


def least_that_fits(choices: Sequence[int], fits: Callable[[int], bool], *, first: int | None) -> int | None:
    """Return the least of some numbers that fits, where all that are greater fit, too; None where none does.

    Args:
        choices: The numbers, in their order.
        fits: Whether a number fits.
        first: The number to begin with; those beside it are tried next. None: the last.
    """
    if not choices:
        return None
    place = len(choices) - 1 if first is None else choices.index(first)
    if fits(choices[place]):
        while place and fits(choices[place - 1]):
            place -= 1
        return choices[place]
    return next((choice for choice in choices[place + 1 :] if fits(choice)), None)


def _needed(workload: Workload, resident: Resident, machine: Machine, micro: int, accumulate: int) -> float:
    return sum(resident) + _step(workload, machine, micro, accumulate).total


def _step(workload: Workload, machine: Machine, micro: int, accumulate: int) -> StepMemory:
    return step_memory(
        workload,
        micro,
        accelerator=machine.options["accelerator"],
        autocast=machine.autocast,
        accumulate=accumulate,
    )


def _parameters(workload: Workload) -> Iterator[Figure]:
    for name, modules in workload.parts().items():
        parameters = [part for module in modules for part in module.parameters()]
        for kind, wanted in (("trained", True), ("frozen", False)):
            count = sum(part.numel() for part in parameters if part.requires_grad is wanted)
            if count:
                yield Figure(f"{name}, {kind}", count, "parameters", COUNTED)


def _operations(workload: Workload, operations: Operations) -> Iterator[Figure]:
    for name, count in operations.forward.items():
        note = "in fp32" if is_full(name, workload.encodes_in) else ""
        yield Figure(name if "step" in name else f"{name}, forward", count, "FLOP", COUNTED, note)
    yield Figure("backward", operations.backward, "FLOP", COUNTED)
    yield Figure("all", operations.total, "FLOP", COUNTED, _steps_note(workload))


def _steps_note(workload: Workload) -> str:
    first = workload.adversarial_from
    return "" if first is None else f"with the discriminator, from step {first:,} on"


def _memory(workload: Workload, resident: Resident, machine: Machine, micro: int, accumulate: int) -> list[Figure]:
    step = _step(workload, machine, micro, accumulate)
    notes = {"temporary": "tensors of which torch knows; not workspaces inside kernels"}
    rows = [
        Figure(name, size, "bytes", COUNTED, notes.get(name, ""))
        for name, size in as_rows(resident, step).items()
        if size
    ]
    total = sum(resident) + step.total
    reserve = machine.options["reserve"]
    note = (
        f"of {shown(machine.memory, 'bytes')}, {reserve:.0%} of the device being left for context, workspaces and gaps"
    )
    return [*rows, Figure("all, when it is most", total, "bytes", COUNTED, note)]


def _speed(workload: Workload, operations: Operations, resident: Resident, machine: Machine, micro: int) -> Speed:
    """Return the speed, averaged over steps with and without the discriminator."""
    timed: dict[Call, float | None] = {}  # most operators are in both
    with_it = _one_speed(workload, operations, resident, machine, micro, timed, adversarial=True)
    first = workload.adversarial_from
    if not first:
        return with_it
    alone = count_operations(workload, adversarial=False)
    without = _one_speed(workload, alone, resident, machine, micro, timed, adversarial=False)
    share = min(1.0, first / workload.stage.steps)
    mean = share * without.image + (1.0 - share) * with_it.image
    return with_it._replace(image=mean)


def _one_speed(
    workload: Workload,
    operations: Operations,
    resident: Resident,
    machine: Machine,
    micro: int,
    timed: dict[Call, float | None],
    *,
    adversarial: bool,
) -> Speed:
    options = machine.options
    if not options["calibrate"]:
        return estimate_speed(operations, resident, options, autocast=machine.autocast)
    calls = recorded_calls(
        workload, micro, accelerator=options["accelerator"], autocast=machine.autocast, adversarial=adversarial
    )
    found = predict_step(workload, calls, machine.device, timed)
    note = f"the sum of {found.distinct} operators and of the update, each measured by itself"
    if found.failed:
        note += f"; not measured: {', '.join(found.failed)}"
    share = operations.frozen / operations.total
    return Speed(found.operators / micro, found.update, share * found.operators / micro, ESTIMATED, note)


def _time(workload: Workload, speed: Speed, machine: Machine, micro: int, *, images: float | None) -> Iterator[Figure]:
    stage = workload.stage
    seconds = speed.step(micro * stage.accumulate)
    hours = stage.steps * seconds / 3600
    yield Figure("a step", seconds, "s", speed.basis, speed.note)
    yield Figure(
        "images a second",
        stage.batch_size / seconds,
        "",
        speed.basis,
        f"on {machine.gpus} device{'s' if machine.gpus > 1 else ''}",
    )
    yield Figure("steps", stage.steps, "steps", COUNTED, f"of {stage.batch_size:,} images")
    if images is not None:
        yield Figure("epochs", stage.steps * stage.batch_size / images, "", COUNTED, f"of {images:,.0f} images")
    yield Figure("days", hours / 24, "days", speed.basis)
    yield Figure("device-hours", hours * machine.gpus, "h", speed.basis)
    if price := machine.options["price"]:
        yield Figure("cost", hours * machine.gpus * price, "dollars", speed.basis, f"at ${price:g} an hour of a device")


def measured_rows(seconds: float, memory: float, plan: StagePlan) -> list[Figure]:
    """Return a measurement beside the prediction.

    Args:
        seconds: Measured seconds of a step.
        memory: Measured bytes.
        plan: The prediction.
    """
    predicted = plan.find("time", "a step")
    rows: Sequence[Figure] = next(rows for title, rows in plan.sections.items() if title.startswith("memory"))
    needed = rows[-1].value
    return [
        Figure("a step", seconds, "s", MEASURED, f"predicted {shown(predicted, 's')}, {predicted / seconds - 1:+.0%}"),
        Figure("memory", memory, "bytes", MEASURED, f"predicted {shown(needed, 'bytes')}, {needed / memory - 1:+.0%}"),
    ]
