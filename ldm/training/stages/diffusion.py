"""The second stage: denoiser and conditioner."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ldm import checkpoint
from ldm.autoencoder.derived import underlying_fields
from ldm.conditioner.text import cut_captions, text_parts
from ldm.config import build, resolved
from ldm.data.base import SAMPLES_LOOKED_AT, DataModule
from ldm.data.latents import FEATURES_FACT
from ldm.model import LatentDiffusion
from ldm.optim.lora import ADAPTER_KEY
from ldm.task.base import Task
from ldm.task.diffusion import DiffusionTask
from ldm.training.next_command import sample_command
from ldm.training.options import StageOptions
from ldm.training.stage import Stage
from ldm.training.stages.latent import LatentStage, has_autoencoder

log = logging.getLogger(__name__)


class DiffusionStage(LatentStage[LatentDiffusion]):
    """Trains the diffusion model in the latent space of a finished autoencoder.

    Args:
        options: The options that all stages have.
        alignment: Config of a factory that makes a loss of the backbone beside the model's; None: none.
        adapter: Config of what is trained in place of the model's weights; None: they are trained.
        captions_for_vocabulary: At most so many captions are read to learn a tokenizer.
        encode_precision: Precision in which the autoencoder encodes training images.
    """

    model_file = checkpoint.MODEL_FILE
    measured_by = (
        "metric*",
        "sampler*",
        "guidance*",
        "timestep_spacing*",
        "model.sampler*",
        "model.guidance*",
        "data.val*",
    )
    panels: ClassVar = {
        "loss": ("train/loss",),
        "loss by noise level": tuple(f"val/{name}" for name in DiffusionTask.metrics),
        "accuracy": ("_accuracy",),
        "Fréchet distance": ("/frechet_efficientnet", "/fid", "/sfid"),
    }

    def __init__(
        self,
        options: StageOptions,
        *,
        alignment: Mapping[str, Any] | None,
        adapter: Mapping[str, Any] | None,
        captions_for_vocabulary: int,
        encode_precision: str,
    ) -> None:
        super().__init__(options, captions_for_vocabulary=captions_for_vocabulary, encode_precision=encode_precision)
        self.alignment = alignment
        self.adapter = adapter
        self.features_hash: str | None = None

    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """Check that there is an autoencoder."""
        if not has_autoencoder(self, earlier):
            raise ValueError(
                f"the stage {self.name} needs a finished autoencoder; give one, autoencoder.ckpt=runs/autoencoder, or train "
                "one before it: 'stage=[autoencoder,diffusion]'"
            )
        if self.adapter is not None and self.run.config.init is None:
            raise ValueError(
                "an adapter (adapter=lora) trains a small change of a finished model, and none is given; give it, "
                "init=runs/txt2img or a file, or train all weights: adapter=none"
            )

    def make_latent_task(self, model: LatentDiffusion, config: dict[str, Any]) -> DiffusionTask:
        """Make the task, with the alignment and the adapter."""
        if self.adapter is not None:
            config = {**config, ADAPTER_KEY: resolved(self.adapter)}
        parts = {"alignment": build(self.alignment), "adapter": build(self.adapter)}
        task = DiffusionTask(model, config=config, **parts, **self.task_options())
        if task.alignment is not None:
            self.features_hash = task.alignment.features_hash
        return task

    def check_latents(self, data: DataModule) -> None:
        """Check that conditioner and alignment have images, or features of them, and that the model can work at all sizes."""
        data.check_sizes(self.task.model.check_size)
        if not (data.encoding or self.run.config.data.get("cache_latents", False)):
            return
        advice = "set data.cache_latents=false, or data=shards instead of data=latents"
        if "image" in underlying_fields(self.task.inputs):
            raise ValueError(f"this conditioner needs the images, but training reads latents; {advice}")
        if self.features_hash is None:
            return
        made_by = data.encoding.get(FEATURES_FACT)
        if not made_by:
            raise ValueError(
                "alignment to a vision encoder needs the images, or the features of the encoder beside the latents, but training "
                f"reads latents without features; write them, python -m ldm.encode ... alignment=repa, or {advice}"
            )
        if made_by != self.features_hash:
            raise ValueError(
                f"the features beside the latents were made by the vision encoder {made_by}, but alignment.encoder is "
                f"{self.features_hash}; give the same weights as alignment.encoder.name, and the same size and patches, or "
                "encode the images again"
            )

    def check_captions(self, data: DataModule, *, new: bool) -> None:
        """Check that cached tokens were made by this text encoder; warn of captions that are longer than it takes."""
        parts = text_parts(self.task.model.conditioner)
        made_by = data.encoding.get("text", "")
        for part in parts if made_by else ():
            if part.frozen_hash != made_by:
                raise ValueError(
                    f"the tokens beside the latents were made by the text encoder {made_by}, but the conditioner is "
                    f"{part.frozen_hash or 'trained from scratch'}; give the same, or encode without text"
                )
        if not new or not parts:
            return
        samples = (fields for _, fields in data.samples(("caption",), SAMPLES_LOOKED_AT))
        warning = cut_captions(self.task.model.conditioner, samples)
        if warning is not None:
            log.warning(warning)

    def next_command(self) -> str:
        """Return the command that samples."""
        return sample_command(self.run, self.run.folder, resolved(self.run.config.model))
