"""The training step of a stage in the latent space, as a plan computes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.autoencoder.derived import underlying_fields, with_derived_fields
from ldm.batch import Batch, Fields
from ldm.classifier.vocabulary import Vocabulary
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.image import ImageConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.conditioner.neighbors import NeighborsConditioner
from ldm.conditioner.transformer import TransformerConditioner
from ldm.config import build, resolved
from ldm.model import LatentDiffusion
from ldm.plan.workload import Meter, Workload, autoencoder_parts
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.frozen import FrozenNetwork
from ldm.pretrained.precision import encoding_in
from ldm.task.diffusion import DiffusionTask
from ldm.training.stages.latent import LatentStage


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
        self.encodes_in = stage.encode_precision
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
        with encoding_in(self.encodes_in):
            loss = self.model.loss(batch).mean()
        loss.backward()

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
        with meter("whole forward"), encoding_in(self.encodes_in):
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
        """Fill parts that learn from captions with as many words as they may have, or with a small tokenizer."""
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
