"""Images that are encoded and decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.autoencoder.tiles import Tiles
from ldm.generation.folder import image_name
from ldm.generation.images import InitImages
from ldm.generation.mode.base import Generator, Mode, ModeParts, optional_size
from ldm.generation.request import SampleRequest
from ldm.sampler.finite import check_finite, check_weights


class Reconstruct(Mode):
    """Shows what an autoencoder makes of images: encodes and decodes them, without noise.

    Args:
        init: An image file, or a folder of them.
        size: Height and width of the images in pixels, one number for squares; None: of each image, its own.
    """

    def __init__(self, init: str | None, *, size: int | Sequence[int] | None = None) -> None:
        self.images = InitImages(init, optional_size(size, "of each image, its own"), mode=self.name)

    @property
    def name(self) -> str:
        """Return "reconstruct"."""
        return "reconstruct"

    def requests(self, n: int, seed: int) -> list[SampleRequest]:
        """See `Mode.requests`."""
        self.images.check()
        return [SampleRequest(image_name(index), init=file) for index, file in enumerate(self.images.files)]

    def generator(self, parts: ModeParts) -> Generator:
        """See `Mode.generator`."""
        return Reconstruction(self.images, parts.autoencoder(), parts.tiles())

    def settings(self) -> dict[str, Any]:
        """See `Mode.settings`."""
        return {}


class Reconstruction(Generator):
    """Encodes and decodes the images of requests.

    Args:
        images: The images.
        autoencoder: The autoencoder.
        tiles: The tiles in which images are decoded; None: each is decoded at once.

    Raises:
        ValueError: Where the autoencoder cannot divide the tiles.
    """

    def __init__(self, images: InitImages, autoencoder: Autoencoder, tiles: Tiles | None = None) -> None:
        if tiles is not None:
            tiles.check(autoencoder)
        self.images = images
        self.autoencoder = autoencoder
        self.tiles = tiles

    def prepare(self, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """See `Generator.prepare`."""
        sized = [
            replace(one, size=self.images.size(str(one.init), self.autoencoder.downsampling_factor)) for one in requests
        ]
        for request in sized:
            assert request.size is not None
            self.autoencoder.check_size(request.size)
        return sized

    @torch.no_grad()
    def __call__(self, requests: Sequence[SampleRequest]) -> Tensor:
        """See `Generator.__call__`."""
        images = self.images.read(requests)
        posterior = self.autoencoder.encode(images.to(self.autoencoder.shift.device))
        raw = posterior.mean
        made = self.autoencoder.decode(raw) if self.tiles is None else self.tiles.decode(self.autoencoder, raw)
        made = made.float().cpu()
        if not made.isfinite().all():
            check_weights(self.autoencoder)
        check_finite(made, [f"the reconstruction of {request.init}" for request in requests])
        return made.clamp(-1, 1)

    def condition_pictures(self, request: SampleRequest) -> Tensor:
        """Return the image that is encoded; see `Generator.condition_pictures`."""
        return self.images.read([request])[0]
