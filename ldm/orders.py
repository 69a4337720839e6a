"""What images are to be made: what the options of `sample.py` ask for, one line an image."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ldm.data.decode import Broken, decode_image
from ldm.data.shards import IMAGE_ENDINGS
from ldm.data.transforms import ImageTransform
from ldm.picture import from_levels

MODES = {
    "txt2img": (),
    "img2img": ("init",),
    "inpaint": ("init", "mask"),
    "interpolate": (),
    "reconstruct": ("init",),
}
"""Mode -> options that it needs and others do not have, beside a prompt, which all but reconstruct need."""


@dataclass(frozen=True)
class Order:
    """One image to be made; what is None plays no part in it.

    file       its name
    prompt     what is to be seen
    seed       of its noise
    init       file of the image that it begins with
    to_prompt, to_seed, share  the other end of an interpolation, and how far it is gone there
    """

    file: str
    prompt: str | None = None
    seed: int | None = None
    init: str | None = None
    to_prompt: str | None = None
    to_seed: int | None = None
    share: float | None = None

    def record(self) -> dict[str, str | int | float]:
        """What plays a part."""
        return {name: value for name, value in vars(self).items() if value is not None}


def orders(
    mode: str,
    prompts: Sequence[str],
    n: int,
    seed: int,
    *,
    inits: Sequence[str] = (),
    to_prompt: str | None = None,
    to_seed: int | None = None,
) -> list[Order]:
    """n images for each prompt (and each image to begin with), numbered through; image i has the seed `seed + i`.

    Of an interpolation, n images on the way from one prompt and seed to the other, ends included.
    """
    if n < 1:
        raise ValueError(f"n is the number of images a prompt, at least 1; got {n}")
    if mode == "reconstruct":
        return [Order(_name(index), init=init) for index, init in enumerate(inits)]
    if mode == "interpolate":
        return _interpolation(prompts, n, seed, to_prompt, to_seed)
    begin: Sequence[str | None] = inits or [None]
    asked = [(prompt, init) for init in begin for prompt in prompts for _ in range(n)]
    return [Order(_name(index), prompt, seed + index, init) for index, (prompt, init) in enumerate(asked)]


def _interpolation(
    prompts: Sequence[str], n: int, seed: int, to_prompt: str | None, to_seed: int | None
) -> list[Order]:
    if len(prompts) != 1 or n < 2:
        raise ValueError(
            f"an interpolation goes from one prompt to one other in n=2 or more images; got {len(prompts)} and {n}"
        )
    if to_prompt is None and to_seed is None:
        raise ValueError('an interpolation needs another end: give to_prompt="..." or to_seed=NUMBER, or both')
    (prompt,), end, last = prompts, prompts[0] if to_prompt is None else to_prompt, seed if to_seed is None else to_seed
    return [Order(_name(index), prompt, seed, to_prompt=end, to_seed=last, share=index / (n - 1)) for index in range(n)]


def check_mode(mode: str, **given: object) -> None:
    """Raise ValueError where a mode is none, lacks an option that it needs, or has one that is not its own."""
    if mode not in MODES:
        raise ValueError(f"mode is one of {', '.join(MODES)}; got {mode!r}")
    for option, value in given.items():
        wanted = option in MODES[mode] or (option in ("to_prompt", "to_seed") and mode == "interpolate")
        if value is None and wanted and option in MODES[mode]:
            raise ValueError(f"mode={mode} needs {option}=FILE")
        if value is not None and not wanted:
            modes = [name for name, options in MODES.items() if option in options] or ["interpolate"]
            raise ValueError(f"{option} has no meaning for mode={mode}; with it, say mode={' or mode='.join(modes)}")


def read_prompts(prompt: str | None, prompts: str | None) -> list[str]:
    """The prompts of a command: one given outright, or one a line of a file."""
    if (prompt is None) == (prompts is None):
        raise ValueError('give one of prompt="a red heart on a white background" and prompts=FILE')
    if prompt is not None:
        return [prompt]
    lines = [line.strip() for line in Path(str(prompts)).read_text().splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"no prompts in {prompts}; write one a line")
    return found


def find_images(path: str | None) -> list[str]:
    """An image file, or all in a folder, by name; None gives none. Raises FileNotFoundError where there is none."""
    if path is None:
        return []
    if Path(path).is_dir():
        found = sorted(file for file in Path(path).iterdir() if file.suffix[1:].lower() in IMAGE_ENDINGS)
        if found:
            return [str(file) for file in found]
    elif Path(path).is_file():
        return [path]
    raise FileNotFoundError(f"no image at {path}; give a file, or a folder of {', '.join(IMAGE_ENDINGS)} files")


def read_image(path: str, side: int) -> Tensor:
    """An image file, resized and cut at the centre as validation images are, `(3, side, side)` in [-1, 1]."""
    try:
        levels = ImageTransform(side)(Path(path).read_bytes(), random.Random(0)).levels
    except Broken as broken:
        raise ValueError(f"{path} cannot be read as an image: {broken}; give another init") from broken
    assert levels is not None
    return from_levels(torch.from_numpy(levels).permute(2, 0, 1))


def read_mask(path: str, like: str, side: int) -> Tensor:
    """A mask of the size of an image, cut as the image is: 1 where it is lighter than middle gray, `(1, side, side)`.

    Raises ValueError where the sizes differ, or where nothing or everything is masked.
    """
    try:
        mask, image = (decode_image(Path(file).read_bytes()) for file in (path, like))
    except Broken as broken:
        raise ValueError(f"{path} or {like} cannot be read as an image: {broken}; give another") from broken
    if mask.size != image.size:
        raise ValueError(f"the mask is of {mask.size} pixels, but {like} of {image.size}; draw one of the same size")
    cut = ImageOps.fit(mask.convert("L"), (side, side), Image.Resampling.NEAREST)
    found = torch.from_numpy(np.array(cut))[None].ge(128).float()
    if float(found.mean()) in (0.0, 1.0):
        raise ValueError(f"{path} masks {'all' if found.any() else 'nothing'}; white is made anew, black stays")
    return found


def _name(index: int) -> str:
    return f"{index:05d}.png"
