"""A stage's model without its trained weights, a batch for it, and the computation of a training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.derived import underlying_fields, with_derived_fields
from ldm.batch import Batch, Fields, Size, as_size
from ldm.classifier.vocabulary import Vocabulary
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.image import ImageConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.conditioner.neighbors import NeighborsConditioner
from ldm.conditioner.transformer import TransformerConditioner
from ldm.config import build, resolved
from ldm.model import LatentDiffusion
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.frozen import FrozenNetwork
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.base import Task
from ldm.task.diffusion import DiffusionTask
from ldm.training.stage import Stage
from ldm.training.stages.autoencoder import AutoencoderStage
from ldm.training.stages.latent import LatentStage

LPIPS = "ldm.pretrained.lpips.LPIPS"

Meter = Callable[[str], AbstractContextManager[object]]
"""Called with the name of a part of a step; what is computed within the context counts for it."""


def no_meter(part: str) -> AbstractContextManager[object]:
    """Count nothing."""
    return nullcontext()


class Workload(ABC):
    """A stage's task on some device, with random weights, and what a training step of it computes.

    Args:
        stage: The stage.
        device: "meta", or a device on which weights take place.

    Attributes:
        task: The task.
        missing: What is not counted, each a sentence.
    """

    task: Task

    keeps_gradients: bool = False
    """True where a step's gradients are still there while the next step's loss is computed, as Lightning leaves them."""

    def __init__(self, stage: Stage[Any], device: str) -> None:
        self.stage = stage
        self.device = device
        self.config = stage.run.config
        self.size: Size = as_size(resolved(self.config.data.size))
        self.missing: list[str] = []

    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return name -> modules of the parts of which the stage consists, without one in another."""

    @abstractmethod
    def batch(self, count: int) -> Batch:
        """Return a batch of images that show nothing, with all fields that a training step reads."""

    @abstractmethod
    def step(self, batch: Batch, *, adversarial: bool = True) -> None:
        """Compute losses and gradients of a batch, as a training step does, without the optimiser's step.

        Args:
            batch: The batch.
            adversarial: Whether the discriminator takes part, where there is one.
        """

    @abstractmethod
    def metered(self, batch: Batch, meter: Meter, *, adversarial: bool = True) -> None:
        """Compute the same as `step`, part by part."""

    @abstractmethod
    def trained(self) -> Sequence[nn.Module]:
        """Return the modules that have an optimizer each."""

    @property
    def adversarial_from(self) -> int | None:
        """The first step with the discriminator; None: there is none."""
        return None

    def images(self, count: int) -> Tensor:
        """Return images `(count, 3, H, W)`, gray."""
        return torch.zeros(count, 3, *self.size, device=self.device)


class AutoencoderWorkload(Workload):
    """The first stage. Its options are those of Workload."""

    task: AutoencoderTask

    def __init__(self, stage: AutoencoderStage, device: str) -> None:
        super().__init__(stage, device)
        loss = dict(stage.loss)
        if (loss.get("perceptual") or {}).get("_target_") == LPIPS:
            loss["perceptual"] = {"_target_": f"{LPIPS}Network"}
        stage.loss = loss
        if stage.latent_alignment is not None:
            self.missing.append("the alignment of latents: its vision encoder and projection are not counted")
            stage.latent_alignment = None
        with torch.device(device):
            self.task = stage.make_autoencoder_task(build(resolved(self.config.autoencoder.network))).train()
        if (first := self.adversarial_from or 0) >= stage.steps:
            self.missing.append(f"the discriminator, which would start at step {first:,}, and training ends before")
            self.task.loss.discriminator = None

    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """See `Workload.parts`."""
        others = {"discriminator": self.task.loss.discriminator, "LPIPS": self.task.loss.perceptual}
        found = {name: [part] for name, part in others.items() if part is not None}
        return {**autoencoder_parts(self.task.model), **found}

    def trained(self) -> Sequence[nn.Module]:
        """See `Workload.trained`."""
        loss = self.task.loss
        return [self.task.model, *([] if loss.discriminator is None else [loss.discriminator])]

    @property
    def adversarial_from(self) -> int | None:
        """The first step with the discriminator; None: there is none."""
        return None if self.task.loss.discriminator is None else self.task.loss.start_step

    def batch(self, count: int) -> Batch:
        """See `Workload.batch`."""
        return Batch([str(number) for number in range(count)], {"image": self.images(count)}, [])

    def step(self, batch: Batch, *, adversarial: bool = True) -> None:
        """See `Workload.step`."""
        self.metered(batch, no_meter, adversarial=adversarial)

    def metered(self, batch: Batch, meter: Meter, *, adversarial: bool = True) -> None:
        """See `Workload.metered`."""
        image, model, loss = batch.fields["image"], self.task.model, self.task.loss
        assert isinstance(image, Tensor)
        first = loss.start_step if adversarial else -1
        if loss.discriminator is not None:
            loss.discriminator.requires_grad_(False)
        with meter("autoencoder forward"):
            encoding, raw, shown, reconstruction = self.task.reconstruct(image)
            penalty = model.regularizer.penalty(encoding, image[0].numel())
        with meter("losses"):
            parts = loss.autoencoder(shown, reconstruction, penalty.loss, last_layer=model.last_layer(), step=first)
            total = parts.total + sum(self.task.more_losses(image, raw, parts.reconstruction).values())
        with meter("backward"):
            total.backward()
        if loss.discriminator is not None:
            loss.discriminator.requires_grad_(True)
        if loss.adversarial(first):
            with meter("discriminator's step"):
                loss.discriminator_loss(shown, reconstruction).backward()


class LatentWorkload(Workload):
    """A stage in the latent space of a finished autoencoder. Its options are those of Workload.

    Args:
        stage: The stage.
        device: "meta", or a device on which weights take place.
        cached: Whether training reads latents that were encoded before.

    Attributes:
        aligned: Whether features are aligned to those of a vision encoder.
    """

    keeps_gradients = True

    def __init__(self, stage: LatentStage[Any], device: str, *, cached: bool) -> None:
        super().__init__(stage, device)
        self.cached = cached
        config = resolved(self.config.model)
        with torch.device(device):
            model = build(config)
            self._build_frozen(model)
        self.aligned = isinstance(getattr(stage, "alignment", None), Mapping)
        if self.aligned:
            self.missing.append("the alignment (alignment=repa): its vision encoder and projection are not counted")
            stage.alignment = None  # type: ignore[attr-defined]
        self.task = stage.make_latent_task(model, config).train()
        self.task.adapt()
        self._learn_words()

    @property
    def model(self) -> Any:
        """The model, with its autoencoder."""
        return self.task.model

    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """See `Workload.parts`."""
        found = autoencoder_parts(self.model.autoencoder)
        if isinstance(self.task, DiffusionTask):
            return {**found, "conditioner": [self.model.conditioner], "U-Net": [self.model.denoiser]}
        return {**found, "classifier": [self.model.network, self.model.head]}

    def trained(self) -> Sequence[nn.Module]:
        """See `Workload.trained`."""
        return [self.task]

    def batch(self, count: int) -> Batch:
        """See `Workload.batch`."""
        wanted = [*underlying_fields(self.task.inputs), *([] if self.cached else ["image"])]
        fields: Fields = {name: self._field(name, count) for name in wanted}
        if self.cached:
            fields["moments"] = self.moments(count)
        return Batch([str(number) for number in range(count)], fields, [])

    def moments(self, count: int) -> Tensor:
        """Return cached moments of images that show nothing."""
        autoencoder = self.model.autoencoder
        channels = autoencoder.latent_channels * autoencoder.regularizer.moments_per_channel
        sides = (length // autoencoder.downsampling_factor for length in self.size)
        return torch.zeros(count, channels, *sides, device=self.device)

    def step(self, batch: Batch, *, adversarial: bool = True) -> None:
        """See `Workload.step`."""
        self.model.loss(batch).mean().backward()

    def metered(self, batch: Batch, meter: Meter, *, adversarial: bool = True) -> None:
        """See `Workload.metered`."""
        autoencoder = self.model.autoencoder
        if not self.cached:
            with torch.no_grad(), meter("encoder"):
                autoencoder.encode(batch.fields["image"])
        if isinstance(self.model, LatentDiffusion):
            inputs = self.model.conditioner.inputs
            sides = [length // autoencoder.downsampling_factor for length in self.size]
            with torch.no_grad(), meter("encoder of masked images"):
                fields = with_derived_fields(batch.fields, inputs, autoencoder, size=sides)
            for network in self.frozen_networks():
                with torch.no_grad(), meter("network of images"):
                    network(batch.fields["image"])
            with meter("conditioner forward"):
                self.model.conditioner.with_dropout(fields)
        with meter("whole forward"):
            loss = self.model.loss(batch).mean()
        with meter("backward"):
            loss.backward()

    def frozen_networks(self) -> Iterator[nn.Module]:
        """Yield the frozen networks that read images for the conditioner."""
        for part in self.model.modules():
            if isinstance(part, FrozenNetwork) and part.network is not None:
                yield part
            if isinstance(part, ImageConditioner) and isinstance(part.encoder, Extractor):
                yield part.encoder

    def _build_frozen(self, model: nn.Module) -> None:
        """Build the frozen networks of others without their weights; note which are unknown."""
        for part in list(model.modules()):
            if isinstance(part, Extractor):
                part.to(self.device)  # its weights come with a package
            if isinstance(part, HuggingFaceConditioner | FrozenNetwork) and not part.build_untrained():
                raise ValueError(
                    f"the architecture of {part.name!r} is neither on this machine nor known here, so that it cannot be counted; "
                    "give a folder with its config.json as conditioner.name"
                )

    def _learn_words(self) -> None:
        """Give what learns from captions as many words as it may have, or a tokenizer of some."""
        for part in self.model.modules():
            if isinstance(part, TransformerConditioner):
                part.prepare([{"caption": ["a red heart on a white background"]}])
            if isinstance(part, Vocabulary):
                part.fractions = {f"word{number}": 0.5 for number in range(part.size)}

    def _field(self, name: str, count: int) -> Tensor | list[Any]:
        """Return a field that says nothing, with the shape and type that it has in training."""
        if name == "caption":
            return ["a red heart on a white background"] * count
        parts: list[nn.Module] = list(self.model.modules())
        height, width = self.size
        shapes: dict[str, tuple[int, ...]] = {
            "image": (3, height, width),
            "depth": (1, height, width),
            "mask": (1, height, width),
            "loss_weight": (1, height, width),
            "geometry": (6,),
        }
        for part in parts:
            if isinstance(part, LowResolutionConditioner):
                shapes["low_resolution"] = (3, height // part.factor, width // part.factor)
            elif isinstance(part, NeighborsConditioner):
                shapes["neighbors"] = (part.max_neighbors, part.width)
            elif isinstance(part, LayoutConditioner):
                shapes["boxes"] = (part.max_boxes, 5)
            elif isinstance(part, ImageConditioner):
                shapes["image_embedding"] = (part.embedding_width,)
        if name in shapes:
            return torch.zeros(count, *shapes[name], device=self.device)
        whole = {"label": (), "segmentation": (height, width)}
        if name in whole:
            return torch.zeros(count, *whole[name], dtype=torch.long, device=self.device)
        raise ValueError(f"the shape of the field {name!r} is not known here, so that its batch cannot be counted")


def make_workload(stage: Stage[Any], device: str, *, cached: bool) -> Workload:
    """Build a stage's model on a device, with random weights; nothing is loaded.

    Args:
        stage: The stage; its options of pretrained parts are changed.
        device: "meta", or a device on which weights take place.
        cached: Whether training reads latents that were encoded before.

    Raises:
        ValueError: If the stage is of a kind that cannot be counted, or a part of it is unknown.
    """
    if isinstance(stage, AutoencoderStage):
        return AutoencoderWorkload(stage, device)
    if isinstance(stage, LatentStage):
        return LatentWorkload(stage, device, cached=cached)
    raise ValueError(
        f"the stage {stage.name} is a {type(stage).__name__}, whose steps cannot be counted here; plan the others, like "
        "'stage=[autoencoder,diffusion]'"
    )


def autoencoder_parts(model: Autoencoder) -> dict[str, Sequence[nn.Module]]:
    """Return the modules of the encoder, and of the decoder with all else, of an autoencoder."""
    encoding = list(model.encoding_layers())
    inside = {id(part) for module in encoding for part in module.modules()}
    return {"encoder": encoding, "decoder": [child for child in model.children() if id(child) not in inside]}
