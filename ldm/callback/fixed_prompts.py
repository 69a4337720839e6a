"""Images of the same prompts, with the same noise, at each evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.callback.checkpoints import end_if_asked
from ldm.conditioner.base import Conditioner
from ldm.conditioner.class_names import class_names
from ldm.files.picture import stack_padded
from ldm.generation.inputs import INPUTS
from ldm.generation.mode.base import Generator, ModeParts
from ldm.generation.mode.txt2img import Txt2Img
from ldm.generation.prompts import Prompt, read_prompts
from ldm.generation.request import SampleRequest, check_given, check_numbers, with_class_numbers
from ldm.guidance.base import Guidance, fields_of
from ldm.model import LatentDiffusion
from ldm.sampler.base import Sampler


class OwnParts(ModeParts):
    """The parts of a model that is in memory, as modes ask for them.

    Args:
        model: The model.
        sampler: The sampler; None: the model's own.
        guidance: The guidance; None: the model's own.
    """

    def __init__(self, model: LatentDiffusion, sampler: Sampler | None, guidance: Guidance | None) -> None:
        self._model = model
        self._sampler = sampler
        self._guidance = guidance

    def model(self) -> LatentDiffusion:
        """See `ModeParts.model`."""
        return self._model

    def autoencoder(self) -> Autoencoder:
        """See `ModeParts.autoencoder`."""
        return self._model.autoencoder

    def sampler(self) -> Sampler:
        """See `ModeParts.sampler`."""
        return self._sampler or self._model.sampler

    def guidance(self) -> Guidance:
        """See `ModeParts.guidance`."""
        return self._guidance or self._model.guidance

    def tiles(self) -> None:
        """Return None: images are decoded at once."""


class FixedPrompts:
    """Prompts of a file, whose images are made again and again, so that they can be followed while a model trains.

    Image i has the seed i, or the one that its line gives: it is the image that `sample.py ckpt=... prompts=FILE` makes with
    the same sampler and guidance. All are of the size of the training images.

    Args:
        file: One prompt a line, or a .jsonl file of lines like {"prompt": "a red heart", "seed": 5} or {"label": 3}.
        guidance: The guidance; None: the model's own.
        sampler: The sampler; None: the model's own.
        batch_size: Images that a process samples at once.

    Raises:
        ValueError: If the file cannot be read, or has no prompts.
    """

    def __init__(self, file: str, *, guidance: Guidance | None, sampler: Sampler | None, batch_size: int) -> None:
        self.file = file
        self.prompts = read_prompts(None, file)
        self._requests: list[SampleRequest] = []
        self.guidance = guidance
        self.sampler = sampler
        self.batch_size = batch_size

    def captions(self, conditioner: Conditioner) -> list[str]:
        """Return one line of text for each image, which describes its request.

        Args:
            conditioner: The model's, which knows the names of the classes or not.
        """
        return [_in_words(prompt, conditioner) for prompt in self.prompts]

    def check(self, model: LatentDiffusion) -> None:
        """Check that the file gives the conditions that a model takes, and read the files that it names.

        Raises:
            ValueError: If it does not; the message names the image by its number, like 00002.png.
        """
        mode, _ = self._mode(model)
        try:
            requests = [with_class_numbers(request, model.conditioner) for request in mode.requests(1, 0)]
            readers = model.readers(self.guidance)
            check_numbers(requests, readers)
            for request in requests:
                check_given(request, fields_of(readers), ())
                mode.fields([replace(request, size=model.size)], model)
        except ValueError as error:
            raise ValueError(f"evaluation.prompts={self.file}: {error}") from error

    def draw(self, trainer: pl.Trainer, model: LatentDiffusion) -> Tensor:
        """Return the images, on the CPU, in all processes, which share the work and all call it.

        Returns:
            Images, each below the pictures of its conditions, `(N, 3, (K + 1) H, W)` in [-1, 1].
        """
        mode, generator = self._mode(model)
        requests = self._requests = self._requests or generator.prepare(mode.requests(1, 0))
        images = torch.zeros(len(requests), 3, *model.size, device=trainer.strategy.root_device)
        own = range(trainer.global_rank, len(requests), trainer.world_size)
        for start in range(0, -(-len(requests) // trainer.world_size), self.batch_size):
            end_if_asked(trainer)
            if chunk := own[start : start + self.batch_size]:
                images[list(chunk)] = generator([requests[number] for number in chunk]).to(images)
        if trainer.world_size > 1:
            whole = trainer.strategy.reduce(images, reduce_op="sum")
            assert isinstance(whole, Tensor)
            images = whole
        pairs = zip(requests, images.cpu(), strict=True)
        tiles = [torch.cat([generator.condition_pictures(one), image], dim=1) for one, image in pairs]
        return stack_padded(tiles, model.size)

    def _mode(self, model: LatentDiffusion) -> tuple[Txt2Img, Generator]:
        mode = Txt2Img(self.prompts, size=list(model.size))
        return mode, mode.generator(OwnParts(model, self.sampler, self.guidance))


def _in_words(prompt: Prompt, conditioner: Conditioner) -> str:
    parts = [prompt.text] if prompt.text is not None else []
    for name, source in prompt.inputs.items():
        parts.append(INPUTS[name].in_words(source, class_names(conditioner, INPUTS[name].field).in_words))
    parts += [f"negative: {prompt.negative}"] if prompt.negative else []
    return " ".join("; ".join(parts).split())
