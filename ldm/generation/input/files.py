"""Inputs that are files: maps, pictures and arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldm.batch import Size
from ldm.data.decode import Broken, Header
from ldm.data.fields.base import Files
from ldm.data.fields.maps import MapReader
from ldm.files.picture import to_tensor
from ldm.generation.input.base import FileInput
from ldm.generation.pictures import find_images, frame_of, open_picture, read_image, read_map_header


class MapInput(FileInput):
    """A picture of one channel that lies on the image, or a folder of them.

    Args:
        reader: Reads such a field of a sample.
    """

    def __init__(self, reader: MapReader) -> None:
        self.reader = reader
        self.field = reader.name

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        return _pictures(value, self.field)

    def size(self, source: str) -> Size:
        """Return the size of the map; see `Input.size`."""
        header = read_map_header(source)
        return Size(header.height, header.width)

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return the field, as it is of samples; see `Input.read`."""
        data = Path(source).read_bytes()
        try:
            picture = self.reader.read(Files(lambda ending: data), None)
            header = Header(*picture.size)
            return self.reader.place(picture, frame_of(header, size, resized=resized).placement(header))
        except Broken as broken:
            raise ValueError(f"{source} cannot be read as {self.field}: {broken}") from broken


class PictureInput(FileInput):
    """A picture that images are to be like, or a folder of them; it goes with every size of the images."""

    field = "image"

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        return _pictures(value, self.field)

    def size(self, source: str) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return the picture, resized and cut to the size of the image, `(3, H, W)` in [-1, 1]; see `Input.read`."""
        return read_image(source, size)


class LowResolutionInput(FileInput):
    """A picture that is enlarged, or a folder of such pictures."""

    field = "low_resolution"

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        return _pictures(value, self.field)

    def size(self, source: str) -> None:
        """Return None, since how much larger images become is known by the model alone; see `Input.size`."""
        return

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return the picture as it is, `(3, h, w)` in [-1, 1], whatever the size of the image; see `Input.read`."""
        return to_tensor(open_picture(source))


class ArrayInput(FileInput):
    """A .npy file with one row for each image, or for one image, or a folder of them."""

    field = "neighbors"

    def sources(self, value: Any) -> list[str]:
        """Return the files; see `Input.sources`."""
        path = Path(str(value))
        files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"there is no .npy file in {self.field}={value}")
        for file in files:
            self.read(str(file), Size(1, 1), resized=True)
        return [str(file) for file in files]

    def size(self, source: str) -> None:
        """Return None; see `Input.size`."""
        return

    def read(self, source: str, size: Size, *, resized: bool) -> Tensor:
        """Return embeddings, `(K, D)`; see `Input.read`."""
        try:
            found = np.load(io.BytesIO(Path(source).read_bytes()), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.field}={source} cannot be read as a .npy file: {error}") from error
        if found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
            raise ValueError(
                f"{source} has the shape {found.shape} of {found.dtype}; {self.field} are finite numbers (K, D), K embeddings"
            )
        return torch.from_numpy(found.astype(np.float32))


def _pictures(value: Any, name: str) -> list[str]:
    """Return the picture files that an option names, each of which can be opened."""
    try:
        files = find_images(str(value))
    except FileNotFoundError as error:
        raise ValueError(f"{name}={value}: {error}") from error
    for file in files:
        read_map_header(file)
    return files
