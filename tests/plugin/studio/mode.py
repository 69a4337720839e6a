"""A mode that makes mirror images, and the start of sampling that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ldm.batch import Fields, Size
from ldm.generation.mode.base import PromptMode
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest, given_fields, numbered
from ldm.model import Beginning, LatentDiffusion, NoiseStart, Start


class Mirror(Start):
    """Another start, and at the end the mirror images.

    Args:
        start: The other start.
    """

    def __init__(self, start: Start) -> None:
        self.start = start

    @property
    def size(self) -> Size | None:
        """See `Start.size`."""
        return self.start.size

    def each(self, count: int) -> Start:
        """See `Start.each`."""
        return Mirror(self.start.each(count))

    def rows(self, chunk: slice) -> Start:
        """See `Start.rows`."""
        return Mirror(self.start.rows(chunk))

    def begin(self, *given: Any) -> Beginning:
        """See `Start.begin`."""
        return self.start.begin(*given)

    def finish(self, images: Tensor) -> Tensor:
        """Return the images `(B, 3, H, W)`, left and right exchanged."""
        return self.start.finish(images).flip(3)


class Mirrored(PromptMode):
    """Makes images of prompts, and turns them round.

    Args:
        prompts: The prompts.
        turned: Whether images are turned round.
    """

    def __init__(self, prompts: Sequence[Prompt], *, turned: bool) -> None:
        super().__init__(prompts, None)
        self.turned = turned

    @property
    def name(self) -> str:
        """Return "mirrored"."""
        return "mirrored"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`."""
        return numbered(self.prompts, n, seed)

    def size_of(self, request: SampleRequest, model: LatentDiffusion) -> Size:
        """See `PromptMode.size_of`."""
        return model.size

    def fields(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Fields:
        """See `PromptMode.fields`."""
        return given_fields(requests, resized=False)

    def start(self, requests: Sequence[SampleRequest], model: LatentDiffusion) -> Start:
        """See `PromptMode.start`."""
        return Mirror(NoiseStart()) if self.turned else NoiseStart()

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {"turned": self.turned}
