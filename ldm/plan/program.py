"""`python -m ldm.plan`: what a run computes, needs and costs, before it is begun."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ldm.checkpoint import load_autoencoder
from ldm.config import packages_of, resolved
from ldm.files.whole import check_own_json, write_whole
from ldm.options.arguments import command_name
from ldm.options.rule import COUNT, FLAG, FRACTION, NOT_NEGATIVE, POSITIVE, Optional, Rule, check_all
from ldm.options.sweep import chosen_experiment, typed_options
from ldm.plan.build import make_workload
from ldm.plan.measure import measure_apart
from ldm.plan.stage_plan import Machine, StagePlan, measured_rows, plan_stage
from ldm.training.options import RunContext
from ldm.training.rules import check_values
from ldm.training.run import make_stages
from ldm.training.stage import Stage
from ldm.training.validate import check_batches, check_groups, leave_out_leftovers

KIND = "ldm plan"
"""A word in each file that this program writes, by which it recognizes them."""

OPTIONS: dict[str, Rule] = {
    "gpus": COUNT,
    "images": Optional(POSITIVE, "unknown"),
    "latents": Optional(FLAG, "as data.cache_latents says"),
    "measure": FLAG,
    "hardware.calibrate": FLAG,
    "hardware.tflops_bf16": Optional(POSITIVE, "measured"),
    "hardware.tflops_fp32": Optional(POSITIVE, "measured"),
    "hardware.memory": Optional(POSITIVE, "what the machine has"),
    "hardware.bandwidth": Optional(POSITIVE, "measured"),
    "hardware.utilization": Optional(FRACTION, "measured"),
    "hardware.reserve": FRACTION,
    "hardware.price": NOT_NEGATIVE,
    "hardware.devices_per_machine": COUNT,
}
"""The rules of the command's own options."""

OWN = ("gpus", "images", "latents", "out", "measure", "hardware")
"""Options, or groups, that train.py does not have."""

MEASURED_STEPS = 5


def plan(config: DictConfig) -> list[StagePlan]:
    """Plan the stages of a run. Nothing is written.

    Args:
        config: `configs/plan.yaml` with the options.

    Raises:
        ValueError: If options cannot be, or a batch cannot be shared by the devices.
    """
    if isinstance(config.images, str):  # YAML does not read 10e6 as a number
        with suppress(ValueError):
            config.images = float(config.images)
    settings = resolved(config)
    check_all(settings, OPTIONS)
    check_groups(settings)
    leave_out_leftovers(config, typed_options(), chosen_experiment())
    check_values(resolved(config))
    stages = todo(config)
    check_batches(stages, config.gpus)
    machine = machine_of(resolved(config.hardware), gpus=config.gpus, precision=str(config.trainer.precision))
    plans = []
    for stage in stages:
        workload = make_workload(stage, "meta", cached=reads_latents(config))
        made = plan_stage(workload, machine, images=settings["images"])
        if config.measure and made.refusal is None:
            micro = stage.batch_size // (config.gpus * stage.accumulate)
            found = measure_apart(
                config, stage.name, micro, machine.device, cached=reads_latents(config), steps=MEASURED_STEPS
            )
            made.sections["measured on this machine"] = measured_rows(found.seconds, found.memory, made)
        plans.append(made)
    return plans


def todo(config: DictConfig) -> list[Stage[Any]]:
    """Return the stages that a run would train, with the network of an autoencoder that is given and there."""
    given = config.autoencoder.ckpt
    if given is not None and Path(given).exists():
        _, config.autoencoder.network = load_autoencoder(given, packages=packages_of(resolved(config)))
    run = RunContext(config, Path(config.paths.output_dir))
    stages = [stage for stage in make_stages(run) if not stage.is_given]
    if not stages:
        raise ValueError(
            "there is nothing to train: the autoencoder is given by autoencoder.ckpt, or only copies; add a stage, like "
            "'stage=[autoencoder,diffusion]'"
        )
    return stages


def reads_latents(config: DictConfig) -> bool:
    """Return whether stages in latent space read latents that were encoded before."""
    if config.latents is not None:
        return bool(config.latents)
    return bool(config.data.get("cache_latents", False)) or config.data.get("moments") is not None


def machine_of(options: Mapping[str, Any], *, gpus: int, precision: str) -> Machine:
    """Return the devices that the options describe.

    Raises:
        ValueError: If a figure is missing that is not measured.
    """
    wanted = ("tflops_bf16", "tflops_fp32", "bandwidth", "utilization", "memory")
    if not options["calibrate"] and (lacks := [name for name in wanted if options[name] is None]):
        raise ValueError(f"hardware.{lacks[0]} is needed where hardware.calibrate=false; give it")
    memory = options["memory"] * 2**30 if options["memory"] is not None else _memory_here(options["accelerator"])
    return Machine(options, gpus, memory * (1.0 - options["reserve"]), precision.startswith("bf16"))


def main(config: DictConfig) -> None:
    """Run the command: print the plan, and write it if asked to.

    Raises:
        ValueError: If a stage does not fit; its figures are printed before.
    """
    out = None if config.out is None else Path(config.out)
    if out is not None:
        check_own_json(out, lambda content: content.get("kind") == KIND, example="plan.json")
    plans = plan(config)
    for made in plans:
        _print(made)
    if refused := [made.refusal for made in plans if made.refusal is not None]:
        raise ValueError("\n".join(refused))
    if out is not None:
        _write(out, config, plans)
        print(f"figures: {out}")
    print(f"next: {next_command(config)}")


def next_command(config: DictConfig) -> str:
    """Return the command that trains what was planned."""
    typed = [option for option in typed_options() if option.lstrip("+~").split("=")[0].split(".")[0] not in OWN]
    given = {option.partition("=")[0] for option in typed}
    typed += [f"data.{name}=SHARDS" for name in ("train", "val") if OmegaConf.is_missing(config.data, name)]
    if config.latents and not any(option.startswith("data=") for option in typed):
        typed.append("data=latents")
    if config.gpus > 1 and "trainer" not in given:
        machines = -(-config.gpus // config.hardware.devices_per_machine)
        typed += ["trainer=ddp", f"trainer.devices={config.gpus // machines}"]
        typed += [f"trainer.num_nodes={machines}"] * (machines > 1)
    return " ".join([command_name("train"), *map(shlex.quote, typed)])


def _print(plan: StagePlan) -> None:
    print(f"\nstage {plan.name}")
    for title, rows in plan.sections.items():
        print(f"\n {title}")
        for row in rows:
            print(row)
    print()
    for line in plan.lines:
        print(f" {line}")


def _memory_here(accelerator: str) -> float:
    """Return the bytes of memory of this machine's device."""
    if accelerator == "gpu":
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _write(out: Path, config: DictConfig, plans: Sequence[StagePlan]) -> None:
    """Write the figures."""
    stages = {
        made.name: {title: {row.name: row._asdict() for row in rows} for title, rows in made.sections.items()}
        | {"notes": made.lines}
        for made in plans
    }
    content = {"kind": KIND, **{name: resolved(config)[name] for name in ("name", "gpus", "images", "hardware")}}
    write_whole(out, json.dumps({**content, "stages": stages}, indent=2))
