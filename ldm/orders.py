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

from ldm.data.decode import Broken, decode_image, decode_text
from ldm.data.shards import IMAGE_ENDINGS
from ldm.data.transforms import Frame, ImageTransform, Size
from ldm.picture import from_levels, to_picture, to_tensor
from ldm.sampler.inpainting import without_masked

RECORD, GRID = "samples.jsonl", "grid.png"
"""In a folder of samples: a line for each image, and all of them in one picture."""

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
    if mode not in NEEDED:
        raise ValueError(f"mode is one of {', '.join(NEEDED)}; got {mode!r}")
    for option, value in given.items():
        if value is None and option in NEEDED[mode]:
            raise ValueError(f"mode={mode} needs {option}=FILE")
        modes = [name for name in NEEDED if option in NEEDED[name] + POSSIBLE[name]]
        if value is not None and mode not in modes:
            raise ValueError(f"{option} has no meaning for mode={mode}; with it, say mode={' or mode='.join(modes)}")


def read_prompts(prompt: str | None, prompts: str | None) -> list[str]:
    """The prompts of a command: one given outright, or one a line of a file."""
    if (prompt is None) == (prompts is None):
        raise ValueError('give one of prompt="a red heart on a white background" and prompts=FILE')
    if prompt is not None:
        return [prompt]
    lines = [line.strip() for line in decode_text(Path(str(prompts)).read_bytes()).splitlines()]
    found = [line for line in lines if line]
    if not found:
        raise ValueError(f"no prompts in {prompts}; write one a line")
    return found


def find_images(path: str | None) -> list[str]:
    """An image file, or all in a folder, by name; None gives none. Raises FileNotFoundError where there is none.

    The picture of all images in a folder of samples is left out.
    """
    if path is None:
        return []
    if Path(path).is_dir():
        files = (file for file in Path(path).iterdir() if file.suffix[1:].lower() in IMAGE_ENDINGS)
        found = sorted(file for file in files if file.name != GRID or not (file.parent / RECORD).is_file())
        if found:
            return [str(file) for file in found]
    elif Path(path).is_file():
        return [path]
    raise FileNotFoundError(f"no image at {path}; give a file, or a folder of {', '.join(IMAGE_ENDINGS)} files")


def check_images(files: Sequence[str], out: Path) -> None:
    """Raise ValueError where one cannot be read, or lies among what an earlier command wrote into the folder `out`."""
    for file in files:
        if (out / RECORD).is_file() and Path(file).resolve().parent == out.resolve():
            raise ValueError(
                f"{file} lies in out={out}, whose images are replaced; choose another folder, like out=changed"
            )
        _open(file)


def read_image(path: str, side: int) -> Tensor:
    """An image file, resized and cut at the centre as validation images are, `(3, side, side)` in [-1, 1]."""
    try:
        levels = ImageTransform(side)(Path(path).read_bytes(), random.Random(0)).levels
    except Broken as broken:
        raise _unreadable(path, broken) from broken
    return from_levels(torch.tensor(levels).permute(2, 0, 1))


def read_masked(path: str, mask_path: str, side: int) -> tuple[Tensor, Tensor]:
    """An image, and a mask of its size, white where something new shall be, both cut as `read_image` does.

    Image `(3, side, side)` in [-1, 1]; what is masked is painted over before it is made smaller, so that no pixel beside it
    holds any of it. Mask `(1, side, side)`: 1 where any part of a pixel is lighter than middle gray. Transparent is black.

    Raises ValueError where the sizes differ, or where nothing or everything is masked.
    """
    picture, light = _open(path), _open(mask_path, background="black").convert("L")
    if light.size != picture.size:
        raise ValueError(f"the mask is of {light.size} pixels, but {path} of {picture.size}; draw one of the same size")
    mask = torch.tensor(np.asarray(light))[None, None].ge(128).float()
    frame = Frame.centre(picture, Size(side, side))
    rows, columns = frame.touched()
    cut = F.adaptive_max_pool2d(mask[:, :, rows, columns], side)[0]
    if float(cut.mean()) in (0.0, 1.0):
        seen = "all" if cut.any() else "nothing"
        raise ValueError(f"{mask_path} masks {seen}; white is made anew, black or transparent stays")
    painted = to_picture(without_masked(to_tensor(picture)[None], mask)[0])
    return to_tensor(frame.cut(painted)), cut


def _open(path: str, *, background: str = "white") -> Image.Image:
    try:
        return decode_image(Path(path).read_bytes(), background=background)
    except Broken as broken:
        raise _unreadable(path, broken) from broken


def _unreadable(path: str, broken: Broken) -> ValueError:
    return ValueError(f"{path} cannot be read as an image: {broken}; give another")


def _name(index: int) -> str:
    return f"{index:05d}.png"
