"""The stage beside: a classifier of noisy latents, to guide a finished model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from ldm import checkpoint
from ldm.classifier.caption_classifier import CaptionClassifier
from ldm.data.base import DataModule
from ldm.options.arguments import command_name
from ldm.task.base import Task
from ldm.task.classifier import ClassifierTask
from ldm.training.stage import Stage
from ldm.training.stages.diffusion import example_options
from ldm.training.stages.latent import LatentStage


class ClassifierStage(LatentStage[CaptionClassifier]):
    """Trains a classifier in the latent space of the model that it shall guide. Its options are those of LatentStage."""

    model_file = checkpoint.CLASSIFIER_FILE
    measured_by = ("data.val*",)
    panels: ClassVar = {"loss": ("train/loss", "val/loss"), "recall of words": ClassifierTask.metrics[1:]}

    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """Check that the autoencoder of the model that is to be guided is given."""
        if self.run.given_autoencoder is None:
            raise ValueError(
                "a classifier needs the autoencoder of the model that it shall guide; give its run, "
                "autoencoder.ckpt=runs/txt2img, or train it first: python train.py experiment=txt2img"
            )

    def make_latent_task(self, model: CaptionClassifier, config: dict[str, Any]) -> ClassifierTask:
        """Make the task."""
        return ClassifierTask(model, config=config, **self.task_options())

    def check_latents(self, data: DataModule) -> None:
        """Check that the network can work at all sizes."""
        data.check_sizes(self.task.model.check_size)

    def check_captions(self, data: DataModule, *, new: bool) -> None:
        """Do nothing: no caption is too long for a set of words."""

    def next_command(self) -> str:
        """Return the command that samples with this classifier as guidance."""
        assert self.run.given_autoencoder is not None
        given = Path(self.run.given_autoencoder)
        model = shlex.quote(str(given)) if (given / checkpoint.MODEL_FILE).is_file() else "RUN"
        path = f"guidance.classifier.path={shlex.quote(str(self.run.folder))}"
        return (
            f"{command_name('sample')} ckpt={model} guidance=classifier {path} {example_options(self.run, ['caption'])}"
        )
