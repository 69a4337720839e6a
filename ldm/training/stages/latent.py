"""The common base of stages in the latent space of a finished autoencoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic

import pytorch_lightning as pl
from safetensors.torch import load_file

from ldm import checkpoint
from ldm.conditioner.base import learned_state, set_learned_state
from ldm.config import build, is_rank_zero, packages_of, resolved, untrusted
from ldm.data.base import SAMPLES_LOOKED_AT, DataModule
from ldm.data.foreign_moments import ForeignMoments
from ldm.data.order.batch_sampler import spread
from ldm.data.value_checks import check_values
from ldm.files.tensors import write_tensors
from ldm.task.base import Task
from ldm.task.latent import LatentTask, Model
from ldm.training.options import StageOptions
from ldm.training.stage import Stage

LEARNED_FILE = "tokenizer.safetensors"
"""The file in a stage's folder with what was learned from the captions before training."""


class LatentStage(Stage[LatentTask[Model]], Generic[Model]):
    """A stage whose model has a finished autoencoder: a given one, or that of an earlier stage of the run.

    Args:
        options: The options that all stages have.
        captions_for_vocabulary: At most so many captions are read to learn a tokenizer, or words.
        encode_precision: Precision in which the autoencoder encodes training images.
    """

    builds_on = (checkpoint.AUTOENCODER_FILE,)

    def __init__(
        self,
        options: StageOptions,
        *,
        captions_for_vocabulary: int,
        encode_precision: str,
    ) -> None:
        super().__init__(options)
        self.captions_for_vocabulary = captions_for_vocabulary
        self.encode_precision = encode_precision

    @abstractmethod
    def make_latent_task(self, model: Model, config: dict[str, Any]) -> LatentTask[Model]:
        """Make the task of a model that is built.

        Args:
            model: The model, with its autoencoder.
            config: The config that built it.
        """

    @abstractmethod
    def check_latents(self, data: DataModule) -> None:
        """Check what is special to this stage about data of cached latents, or of images.

        Raises:
            ValueError: If they cannot train it.
        """

    @abstractmethod
    def check_captions(self, data: DataModule, *, new: bool) -> None:
        """Check the captions, or the tokens beside cached latents, once the reader of captions is ready.

        Args:
            data: The data, opened.
            new: Whether the run begins, in the first process: the moment to warn of what can be borne.

        Raises:
            ValueError: If they cannot be used.
        """

    @property
    def is_given(self) -> bool:
        """False: a model in the latent space is always trained."""
        return False

    @property
    def learned_file(self) -> Path:
        """The file of what was learned from the captions."""
        return self.folder / LEARNED_FILE

    def make_task(self) -> LatentTask[Model]:
        """Build model and task. The network of an autoencoder that is given takes the place of the config's."""
        config = self.run.config
        given: str | Path | None = self.run.given_autoencoder
        if given is not None and config.autoencoder.ckpt is None:
            given = checkpoint.find(given, (self.model_file,))  # whose weights are taken, too
        file = given or self.run.folder / checkpoint.AUTOENCODER_FILE
        trained = None
        if given or Path(file).is_file():
            packages = packages_of(resolved(config))
            trained, config.autoencoder.network = checkpoint.load_autoencoder(file, packages=packages)
        model_config = resolved(config.model)
        _check_loadable(model_config)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        model = build(model_config)
        if trained is not None:
            model.autoencoder.load_state_dict(trained.state_dict())
        task = self.make_latent_task(model, model_config)
        # What is pretrained is loaded now: where it is missing, no data were written or copied.
        task.reader.prepare(None)
        return task

    def check_data(self, data: DataModule) -> None:
        """Check that cached latents were made by this autoencoder; of foreign ones, that they can be its own.

        Where foreign moments are declared, the autoencoder takes the declared shift and scale.
        """
        if data.foreign is not None:
            self._take_declared(data.foreign)
            self.check_latents(data)
            return
        made_by = data.encoding.get("autoencoder")
        ours = self.task.model.autoencoder.encoder_hash if data.encoding else None
        if made_by != ours:
            raise ValueError(
                f"the latents were made by the autoencoder {made_by}, but autoencoder.ckpt is {ours}; give the same, or "
                "encode the images again"
            )
        self.check_latents(data)

    def _take_declared(self, declared: ForeignMoments) -> None:
        """Give the autoencoder the shift and scale of foreign moments; its encoder is never used, its decoder by sampling alone.

        Raises:
            ValueError: If its latents have another shape or are no posteriors, or images would be measured in training.
        """
        autoencoder = self.task.model.autoencoder
        per_channel = autoencoder.regularizer.moments_per_channel
        ours = autoencoder.latent_channels, autoencoder.downsampling_factor, per_channel
        if ours != (declared.channels, declared.downsampling_factor, 2):
            raise ValueError(
                f"the moments are declared to have {declared.channels} channels of mean and of log-variance, downsampled by "
                f"{declared.downsampling_factor}, but the latents of autoencoder.ckpt have {ours[0]} channels of {ours[2]} "
                f"numbers, downsampled by {ours[1]}; give the autoencoder that the moments were made with, or mend data.moments"
            )
        if self.evaluations:
            raise ValueError(
                "the callback evaluation compares with validation images, and there are only moments; set "
                f"stage.{self.name}.callbacks.evaluation=null, and measure checkpoints with python -m ldm.evaluate"
            )
        autoencoder.shift.fill_(declared.shift)
        autoencoder.scale.fill_(declared.scale)

    def prepare(self, data: DataModule) -> None:
        """Let the reader of fields learn its tokens or words, in the first process; the others get them later.

        From now on, it checks the values of each batch.
        """
        reader = self.task.reader
        data.add_check(reader.check)
        if self.learned_file.is_file():
            set_learned_state(reader, load_file(self.learned_file))
        fields = reader.learns_from if is_rank_zero() else ()
        samples = data.samples(fields, self.captions_for_vocabulary) if fields else ()
        reader.prepare((values for _, values in samples) if fields else None)
        new = is_rank_zero() and not self.folder.is_dir()
        if new:
            self._check_values(data)
        self.check_captions(data, new=new)

    def _check_values(self, data: DataModule) -> None:
        """Check those fields of some samples of each split that have a range: the run ends now, not after an earlier stage.

        Raises:
            ValueError: If there is a value that the model cannot take.
        """
        reader = self.task.reader
        ranged = {one.field for one in reader.ranges} & {one.name for one in data.readers}
        if not ranged:
            return
        check_values(reader, data.samples(ranged, SAMPLES_LOOKED_AT), "data.train")
        numbers = spread(len(data.val_set), SAMPLES_LOOKED_AT)
        check_values(reader, data.val_set.keyed_fields(numbers, data.choose(ranged)), "data.val")

    def remember(self) -> None:
        """Write what the reader of fields has learned."""
        if self.learned_file.is_file() or not is_rank_zero():
            return
        if state := learned_state(self.task.reader):
            write_tensors(self.learned_file, state)

    def take(self, file: Path) -> None:
        """Take the weights and statistics of an autoencoder of the same architecture."""
        trained, _ = checkpoint.load_autoencoder(file, packages=packages_of(resolved(self.run.config)))
        self.task.model.autoencoder.load_state_dict(trained.state_dict())

    def trainer_options(self, *, several: bool) -> dict[str, Any]:
        """Return no options: one optimizer, which Lightning steps."""
        return {}

    def complete(self, trainer: pl.Trainer, data: DataModule) -> None:
        """Do nothing: the model is complete."""

    def task_options(self) -> dict[str, Any]:
        """Return the options that all tasks have."""
        return {
            "optimizer": build(self.optimizer),
            "scheduler": build(self.scheduler),
            "gradient_clip_val": self.trainer["gradient_clip_val"],
            "encode_precision": self.encode_precision,
        }


def has_autoencoder(stage: Stage[Task], earlier: Sequence[Stage[Task]]) -> bool:
    """Return whether a stage's autoencoder is given, finished in the run folder, trained before it in the same run, or copies."""
    given = stage.run.given_autoencoder is not None or (stage.run.folder / checkpoint.AUTOENCODER_FILE).is_file()
    trained = any(before.model_file in stage.builds_on for before in earlier)
    return given or trained or stage.run.autoencoder_copies


def _check_loadable(model_config: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint with this config would be refused by `checkpoint.load`."""
    for value in untrusted(model_config, packages_of(model_config)):
        raise ValueError(
            f"a model that is built by calling {value!r} could not be loaded again, since a checkpoint may construct classes "
            "alone; guidance that loads another file is for sampling: train without it, then give it to sample.py"
        )
