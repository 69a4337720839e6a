"""What images are to be made: what the options of `sample.py` ask for, one line an image."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldm.batch import as_size
from ldm.data.decode import Broken, decode_image
from ldm.data.shards.names import IMAGE_ENDINGS
from ldm.data.transforms import Frame, ImageTransform
from ldm.options import SEED, check
from ldm.picture import from_levels, to_picture, to_tensor
from ldm.prompts import Prompt
from ldm.sample_folder import GRID, RECORD, image_name
from ldm.sampler.inpainting import without_masked

NEEDED = {
    "txt2img": (),
    "img2img": ("init",),
    "inpaint": ("init", "mask"),
    "interpolate": (),
    "reconstruct": ("init",),
}
"""Mode -> files that it needs, beside a prompt, which all but reconstruct need."""

POSSIBLE = {
    "txt2img": ("prompt", "prompts", "negative"),
    "img2img": ("prompt", "prompts", "negative", "strength", "init_prompt"),
    "inpaint": ("prompt", "prompts", "negative", "border", "visits"),
    "interpolate": ("prompt", "prompts", "negative", "to_prompt", "to_seed"),
    "reconstruct": (),
}
"""Mode -> options that have a meaning for it and not for all others."""


MIDDLE = 128
"""The gray level from which on a mask is white."""


@dataclass(frozen=True)
class Order:
    """One image to be made; what is None plays no part in it.

    file       its name
    prompt     what is to be seen
    seed       of its noise
    negative   what guidance leads away from, where that is another one than for all
    init       file of the image that it begins with
    to_prompt, to_seed, share  the other end of an interpolation, and how far it is gone there
    """

    file: str
    prompt: str | None = None
    seed: int | None = None
    negative: str | None = None
    init: str | None = None
    to_prompt: str | None = None
    to_seed: int | None = None
    share: float | None = None

    def record(self) -> dict[str, str | int | float]:
        """What plays a part."""
        return {name: value for name, value in vars(self).items() if value is not None}


def orders(
    mode: str,
    prompts: Sequence[Prompt],
    n: int,
    seed: int,
    *,
    inits: Sequence[str] = (),
    to_prompt: str | None = None,
    to_seed: int | None = None,
) -> list[Order]:
    """n images for each prompt (and each image to begin with), numbered through; image i has the seed `seed + i`.

    Where a prompt has a seed of its own, its n images have that one, the next, and so on, for each image to begin with.
    Of an interpolation, n images on the way from one prompt and seed to the other, ends included.

    Raises ValueError where n is none, a seed is beyond the last one, or an interpolation has no two ends.
    """
    if n < 1:
        raise ValueError(f"n is the number of images a prompt, at least 1; got {n}")
    if mode == "reconstruct":
        return [Order(image_name(index), init=init) for index, init in enumerate(inits)]
    if mode == "interpolate":
        return _interpolation(prompts, n, seed, to_prompt, to_seed)
    begin: Sequence[str | None] = inits or [None]
    asked = [(prompt, init, k) for init in begin for prompt in prompts for k in range(n)]
    made = []
    for index, (prompt, init, k) in enumerate(asked):
        own = seed + index if prompt.seed is None else prompt.seed + k
        check(f"the seed of {image_name(index)}", own, SEED)
        made.append(Order(image_name(index), prompt.text, own, prompt.negative, init))
    return made


def _interpolation(
    prompts: Sequence[Prompt], n: int, seed: int, to_prompt: str | None, to_seed: int | None
) -> list[Order]:
    if len(prompts) != 1 or n < 2:
        raise ValueError(
            f"an interpolation goes from one prompt to one other in n=2 or more images; got {len(prompts)} and {n}"
        )
    if to_prompt is None and to_seed is None:
        raise ValueError('an interpolation needs another end: give to_prompt="..." or to_seed=NUMBER, or both')
    ((prompt, own, negative),) = prompts
    first = seed if own is None else own
    end, last = prompt if to_prompt is None else to_prompt, first if to_seed is None else to_seed
    return [
        Order(image_name(index), prompt, first, negative, to_prompt=end, to_seed=last, share=index / (n - 1))
        for index in range(n)
    ]


def check_mode(mode: str, **given: object) -> None:
    """Raise ValueError where a mode is none, lacks an option that it needs, or has one that is not its own."""
    if mode not in NEEDED:
        raise ValueError(f"mode is one of {', '.join(NEEDED)}; got {mode!r}")
    for option, value in given.items():
        if value is None and option in NEEDED[mode]:
            raise ValueError(f"mode={mode} needs {option}=FILE")
        modes = [name for name in NEEDED if option in NEEDED[name] + POSSIBLE[name]]
        if value is not None and mode not in modes:
            raise ValueError(f"{option} has no meaning for mode={mode}; with it, say mode={' or mode='.join(modes)}")


def find_images(path: str | None) -> list[str]:
    """An image file, or all in a folder, by name; None gives none. Raises FileNotFoundError where there is none.

    The picture of all images in a folder of samples is left out.
    """
    if path is None:
        return []
    if Path(path).is_dir():
        files = (file for file in Path(path).iterdir() if file.suffix[1:].lower() in IMAGE_ENDINGS and file.is_file())
        found = sorted(file for file in files if file.name != GRID or not (file.parent / RECORD).is_file())
        if found:
            return [str(file) for file in found]
    elif Path(path).is_file():
        return [path]
    raise FileNotFoundError(f"no image at {path}; give a file, or a folder of {', '.join(IMAGE_ENDINGS)} files")


def check_images(inits: Sequence[str], mask: str | None) -> None:
    """Raise ValueError where an image or the mask cannot be read, or the mask fits to no image or masks nothing."""
    sizes = [(file, _open(file).size) for file in inits]
    if mask is None:
        return
    light = _open_mask(mask)
    for file, size in sizes:
        _check_size(light, file, size)
    levels = np.asarray(light)
    darkest, lightest = int(levels.min()), int(levels.max())
    if not darkest < MIDDLE <= lightest:
        raise _masks(mask, lightest >= MIDDLE)


def read_image(path: str, size: int | Sequence[int]) -> Tensor:
    """An image file, resized and cut at the centre as validation images are, `(3, H, W)` in [-1, 1]."""
    try:
        levels = ImageTransform(size)(Path(path).read_bytes(), random.Random(0)).levels
    except Broken as broken:
        raise _unreadable(path, broken) from broken
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    return from_levels(torch.tensor(levels).permute(2, 0, 1))


def read_masked(path: str, mask_path: str, size: int | Sequence[int]) -> tuple[Tensor, Tensor]:
    """An image, and a mask of its size, white where something new shall be, both cut as `read_image` does.

    Image `(3, H, W)` in [-1, 1]; what is masked is painted over before it is made smaller, so that no pixel beside it
    holds any of it. Mask `(1, H, W)`: 1 where any part of a pixel is lighter than middle gray. Transparent is black.

    Raises ValueError where the sizes differ, or where nothing or everything is masked.
    """
    picture, light = _open(path), _open_mask(mask_path)
    _check_size(light, path, picture.size)
    mask = torch.tensor(np.asarray(light))[None, None].ge(MIDDLE).float()
    size = as_size(size)
    frame = Frame.centre(picture, size)
    rows, columns = frame.touched()
    cut = F.adaptive_max_pool2d(mask[:, :, rows, columns], size)[0]
    if float(cut.mean()) in (0.0, 1.0):
        raise _masks(mask_path, bool(cut.any()))
    painted = to_picture(without_masked(to_tensor(picture)[None], mask)[0])
    return to_tensor(frame.cut(painted)), cut


def _open(path: str, *, background: str = "white") -> Image.Image:
    try:
        return decode_image(Path(path).read_bytes(), background=background)
    except Broken as broken:
        raise _unreadable(path, broken) from broken
    except OSError as error:
        raise _unreadable(path, error.strerror) from error


def _open_mask(path: str) -> Image.Image:
    """A mask as gray levels; what is transparent is black."""
    return _open(path, background="black").convert("L")


def _check_size(mask: Image.Image, path: str, size: tuple[int, int]) -> None:
    if mask.size != size:
        raise ValueError(f"the mask is of {mask.size} pixels, but {path} of {size}; draw one of the same size")


def _masks(path: str, everything: bool) -> ValueError:
    seen = "all" if everything else "nothing"
    return ValueError(f"{path} masks {seen}; white is made anew, black or transparent stays")


def _unreadable(path: str, reason: object) -> ValueError:
    return ValueError(f"{path} cannot be read as an image: {reason}; give another")
