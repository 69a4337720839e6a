"""The stage beside: a classifier of noisy latents, to guide a finished model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, ClassVar

from ldm import checkpoint
from ldm.classifier.base import NoisyClassifier
from ldm.config import class_of, resolved
from ldm.data.base import DataModule
from ldm.options.arguments import command_name
from ldm.task.base import Task
from ldm.task.classifier import TIMES, ClassifierTask
from ldm.training.next_command import EXAMPLES, model_in, sample_command
from ldm.training.stage import Stage
from ldm.training.stages.latent import LatentStage


class ClassifierStage(LatentStage[NoisyClassifier]):
    """Trains a classifier in the latent space of the model that it shall guide. Its options are those of LatentStage."""

    model_file = checkpoint.CLASSIFIER_FILE
    measured_by = ("data.val*",)
    panels: ClassVar = {
        "loss": ("train/loss", "val/loss"),
        "recall of words": tuple(f"recall_{t}" for t in TIMES),
        "accuracy of classes": tuple(f"accuracy_{t}" for t in TIMES),
    }

    def check(self, earlier: Sequence[Stage[Task]]) -> None:
        """Check that the autoencoder of the model that is to be guided is given."""
        if self.run.given_autoencoder is None:
            raise ValueError(
                "a classifier needs the autoencoder of the model that it shall guide; give its run, "
                "autoencoder.ckpt=runs/txt2img, or train it first: python train.py experiment=txt2img"
            )

    def make_latent_task(self, model: NoisyClassifier, config: dict[str, Any]) -> ClassifierTask:
        """Make the task."""
        return ClassifierTask(model, config=config, **self.task_options())

    def check_latents(self, data: DataModule) -> None:
        """Check that the network can work at all sizes."""
        data.check_sizes(self.task.model.check_size)

    def check_captions(self, data: DataModule, *, new: bool) -> None:
        """Do nothing: no caption is too long for a set of words."""

    def next_command(self) -> str:
        """Return the command that samples with this classifier as guidance, from the model whose autoencoder it was given."""
        assert self.run.given_autoencoder is not None
        guided = "guidance=classifier", f"guidance.classifier.path={shlex.quote(str(self.run.folder))}"
        kind = class_of(resolved(self.run.config.model))
        assert issubclass(kind, NoisyClassifier)
        if (model := model_in(self.run.given_autoencoder)) is None:
            inputs = (EXAMPLES[name] for name in kind.inputs)
            return " ".join([command_name("sample"), "ckpt=RUN", *guided, *inputs, "n=4 seed=0"])
        return sample_command(self.run, self.run.given_autoencoder, model, *guided, also=kind.inputs)
