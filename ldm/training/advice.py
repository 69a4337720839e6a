"""Advice after a training diverged."""

from __future__ import annotations

from ldm.task.base import Task
from ldm.training.stage import Stage


def advice(stage: Stage[Task]) -> str:
    """Return advice for a stage whose training diverged."""
    precision, option = str(stage.run.config.trainer.precision), f"stage.{stage.name}"
    tries = []
    if precision.startswith("bf16"):
        tries.append(f"trainer.precision=32-true (now {precision}), with which the same command goes on")
    if (rate := stage.optimizer.get("lr")) is not None:
        tries.append(f"a lower {option}.optimizer.lr (now {rate:g})")
    if "warmup_steps" in stage.scheduler:
        tries.append(f"more {option}.scheduler.warmup_steps (now {stage.scheduler['warmup_steps']})")
    if stage.trainer["gradient_clip_val"] is None:
        tries.append(f"{option}.trainer.gradient_clip_val=1.0 (now null)")
    return (
        "the same command would diverge again at the same step; try "
        + ", ".join(tries)
        + f". What is trained otherwise needs another name, like name={stage.run.config.name}-2"
    )
