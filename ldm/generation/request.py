"""Requests: the images that a mode asks for, one request each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ldm.batch import Size
from ldm.generation.folder import image_name
from ldm.generation.prompts import Prompt
from ldm.options.rule import SEED, check


@dataclass(frozen=True)
class SampleRequest:
    """One image to be made; what is None plays no part in it.

    Args:
        file: The name of its file.
        prompt: The text that says what is to be seen.
        seed: The seed of its noise.
        negative: The negative prompt.
        init: The file of the image that it begins with.
        init_prompt: The text that says what that image shows.
        to_prompt: The prompt at the other end of an interpolation.
        to_seed: The seed there.
        fraction: How far it is gone there, in [0, 1].
        size: Its height and width in pixels, as soon as they are known.
    """

    file: str
    prompt: str | None = None
    seed: int | None = None
    negative: str | None = None
    init: str | None = None
    init_prompt: str | None = None
    to_prompt: str | None = None
    to_seed: int | None = None
    fraction: float | None = None
    size: Size | None = None

    def record(self) -> dict[str, str | int | float | Size]:
        """Return the values that play a part, by their names."""
        return {name: value for name, value in vars(self).items() if value is not None}


def numbered(prompts: Sequence[Prompt], n: int, seed: int, *, inits: Sequence[str] = ()) -> list[SampleRequest]:
    """Return requests for n images of each prompt (and each image to begin with), numbered through.

    Image i has the seed `seed + i`. Where a prompt has a seed of its own, its n images have that one, the next, and so on,
    for each image to begin with.

    Args:
        prompts: The prompts.
        n: The number of images of each.
        seed: The seed of the first image.
        inits: The files of images to begin with; none: the images begin with noise alone.

    Raises:
        ValueError: Where a seed is beyond the last one.
    """
    begin: Sequence[str | None] = inits or [None]
    asked = [(prompt, init, k) for init in begin for prompt in prompts for k in range(n)]
    made = []
    for index, (prompt, init, k) in enumerate(asked):
        own = seed + index if prompt.seed is None else prompt.seed + k
        check(f"the seed of {image_name(index)}", own, SEED)
        made.append(SampleRequest(image_name(index), prompt.text, own, prompt.negative, init))
    return made


def captions(requests: Sequence[SampleRequest]) -> dict[str, list[str]]:
    """Return the field "caption" of requests, made of their prompts."""
    return {"caption": [request.prompt or "" for request in requests]}


def texts_of(requests: Sequence[SampleRequest]) -> Iterator[str]:
    """Yield the texts that a model reads for some requests: first all prompts, then the others."""
    yield from (request.prompt for request in requests if request.prompt is not None)
    for request in requests:
        yield from filter(None, (request.negative, request.init_prompt, request.to_prompt))
