"""Building of the workload of a stage, whatever its kind."""

from __future__ import annotations

from typing import Any

from ldm.callback.activation_checkpointing import checkpoint_activations
from ldm.plan.autoencoder_workload import AutoencoderWorkload
from ldm.plan.kernels import contexts_again
from ldm.plan.latent_workload import LatentWorkload
from ldm.plan.workload import Workload
from ldm.training.stage import Stage
from ldm.training.stages.autoencoder import AutoencoderStage
from ldm.training.stages.latent import LatentStage


def make_workload(stage: Stage[Any], device: str, *, cached: bool) -> Workload:
    """Build a stage's model on a device, with random weights; nothing is loaded.

    Args:
        stage: The stage; its options of pretrained parts are changed.
        device: "meta", or a device on which weights take place.
        cached: Whether training reads latents that were encoded before.

    Raises:
        ValueError: If the stage is of a kind that cannot be counted, or a part of it is unknown.
    """
    workload: Workload
    if isinstance(stage, AutoencoderStage):
        workload = AutoencoderWorkload(stage, device)
    elif isinstance(stage, LatentStage):
        workload = LatentWorkload(stage, device, cached=cached)
    else:
        raise ValueError(
            f"the stage {stage.name} is a {type(stage).__name__}, whose steps cannot be counted here; plan the others, like "
            "'stage=[autoencoder,diffusion]'"
        )
    if workload.recomputes:
        checkpoint_activations(workload.task, contexts_again)
    return workload
