"""Images that sampling begins with: found, checked, and read at the size that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.batch import Size
from ldm.files.picture import to_picture, to_tensor
from ldm.generation.pictures import find_images, frame_of, open_mask, open_picture, read_image
from ldm.generation.request import SampleRequest
from ldm.sampler.inpainting import fill_masked

MIDDLE = 128
"""The lowest gray level that counts as white in a mask."""


class InitImages:
    """Images that others are made of.

    Args:
        path: An image file, or a folder of them.
        size: The size at which they are read: resized until they just cover it, and cut at the centre. None: each at its own
            size, cut just as far as a model needs to divide it.
        mode: The mode that begins with them, for errors.

    Raises:
        ValueError: Where no path is given.
        FileNotFoundError: Where there is no image.
    """

    def __init__(self, path: str | None, size: Size | None, *, mode: str) -> None:
        if path is None:
            raise ValueError(f"mode={mode} needs init=FILE")
        self.files = find_images(path)
        self.wanted = size
        self._own: dict[str, tuple[int, int]] = {}

    def check(self, mask_file: str | None = None) -> None:
        """Raise ValueError where an image or the mask cannot be read, or the mask fits to no image or masks nothing."""
        self._own = {file: open_picture(file).size for file in self.files}
        if mask_file is None:
            return
        light = open_mask(mask_file)
        for file, size in self._own.items():
            _check_size(light, file, size)
        levels = np.asarray(light)
        darkest, lightest = int(levels.min()), int(levels.max())
        if not darkest < MIDDLE <= lightest:
            raise _masks(mask_file, lightest >= MIDDLE)

    def size(self, file: str, multiple: int) -> Size:
        """Return the size at which one of the files is read.

        Args:
            file: The file.
            multiple: Its own height and width are rounded down to multiples of this number of pixels.
        """
        if self.wanted is not None:
            return self.wanted
        width, height = self._own.get(file) or open_picture(file).size
        return Size(*(max(length // multiple, 1) * multiple for length in (height, width)))

    def read(self, requests: Sequence[SampleRequest]) -> Tensor:
        """Return the images `(N, 3, H, W)` in [-1, 1] that requests of one size begin with."""
        found = {file: self._read(file, size) for file, size in _different(requests)}
        return torch.stack([found[str(request.init)] for request in requests])

    def read_masked(self, requests: Sequence[SampleRequest], mask_file: str) -> tuple[Tensor, Tensor]:
        """Return the images that requests of one size begin with, and a mask of each, both cut as `read` does.

        Args:
            requests: The requests.
            mask_file: A picture of the size of the files, white where something new shall be; transparent is black.

        Returns:
            The images `(N, 3, H, W)` in [-1, 1]; what is masked is painted over before it is made smaller, so that no pixel
            beside it holds any of it. The masks `(N, 1, H, W)`: 1 where any part of a pixel is lighter than middle gray.

        Raises:
            ValueError: Where the sizes differ, or where nothing or everything is masked.
        """
        found = {file: self._read_masked(file, mask_file, size) for file, size in _different(requests)}
        images, masks = zip(*(found[str(request.init)] for request in requests), strict=True)
        return torch.stack(images), torch.stack(masks)

    def _read(self, file: str, size: Size) -> Tensor:
        if self.wanted is not None:
            return read_image(file, size)
        picture = open_picture(file)
        return to_tensor(frame_of(picture, size, resized=False).cut(picture))

    def _read_masked(self, file: str, mask_file: str, size: Size) -> tuple[Tensor, Tensor]:
        picture, light = open_picture(file), open_mask(mask_file)
        _check_size(light, file, picture.size)
        mask = torch.tensor(np.asarray(light))[None, None].ge(MIDDLE).float()
        frame = frame_of(picture, size, resized=self.wanted is not None)
        rows, columns = frame.touched()
        cut = F.adaptive_max_pool2d(mask[:, :, rows, columns], size)[0]
        if float(cut.mean()) in (0.0, 1.0):
            raise _masks(mask_file, bool(cut.any()), cut_to=size)
        painted = to_picture(fill_masked(to_tensor(picture)[None], mask)[0])
        return to_tensor(frame.cut(painted)), cut


def _different(requests: Sequence[SampleRequest]) -> set[tuple[str, Size]]:
    """Return each file that some requests begin with, and its size."""
    return {(str(request.init), request.size) for request in requests if request.size is not None}


def _check_size(mask: Image.Image, path: str, size: tuple[int, int]) -> None:
    if mask.size != size:
        (width, height), (wide, high) = mask.size, size
        raise ValueError(
            f"the mask is {width} pixels wide and {height} high, but {path}, seen upright, {wide} and {high}; draw one of the "
            "same size"
        )


def _masks(path: str, everything: bool, *, cut_to: Size | None = None) -> ValueError:
    """Return the error of a mask that masks everything or nothing, maybe only where images are cut to a size."""
    seen = "all" if everything else "nothing"
    there = (
        "" if cut_to is None else f" of what is left when the image is cut to {cut_to.height} x {cut_to.width} pixels"
    )
    return ValueError(f"{path} masks {seen}{there}; white is made anew, black or transparent stays")
