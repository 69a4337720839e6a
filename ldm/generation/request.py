"""Requests: the images that a mode asks for, one request each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ldm.batch import Fields, Size
from ldm.conditioner.base import Conditioner, Reader
from ldm.conditioner.class_names import class_names
from ldm.data.fields.sample import collate_fields
from ldm.generation.folder import image_name
from ldm.generation.inputs import INPUTS
from ldm.generation.prompts import Prompt
from ldm.options.rule import SEED, check

OF_MODES = {
    "mask": ("mode=inpaint init=FILE mask=FILE", ("image", "mask")),
    "low_resolution": ("mode=super_resolution low_resolution=FILE", ("low_resolution",)),
}
"""Option that one mode alone has -> what to type where a model needs it, and all that is given by it."""


MOST_IMAGES = 1_000_000
"""One folder takes no more images than this; the requests of so many need some gigabytes of memory."""


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
        fraction: Position on the way there, in [0, 1].
        size: Its height and width in pixels, as soon as they are known.
        inputs: Option of `INPUTS` -> its source.
        to_inputs: The same of those that differ at the other end of an interpolation.
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
    inputs: Mapping[str, Any] = field(default_factory=dict)
    to_inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_inputs(self) -> dict[str, Any]:
        """Return option -> source of all inputs, `to_` before the options of those at the other end."""
        return {**self.inputs, **{f"to_{name}": source for name, source in self.to_inputs.items()}}

    @property
    def title(self) -> str:
        """Return the name of its file and, where it begins with an image, that one's, for messages."""
        return self.file if self.init is None else f"{self.file}, made of {self.init}"

    def record(self) -> dict[str, Any]:
        """Return the values that play a part, by their names."""
        alone = {name: value for name, value in vars(self).items() if name not in ("inputs", "to_inputs")}
        return {**{name: value for name, value in alone.items() if value is not None}, **self.all_inputs}


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
        ValueError: Where a seed is beyond the last one, or there are more images than a folder takes.
    """
    begin: Sequence[str | None] = inits or [None]
    check_count(len(begin) * len(prompts) * n, n)
    asked = [(prompt, init, k) for init in begin for prompt in prompts for k in range(n)]
    made = []
    for index, (prompt, init, k) in enumerate(asked):
        own = seed + index if prompt.seed is None else prompt.seed + k
        check(f"the seed of {image_name(index)}", own, SEED)
        made.append(SampleRequest(image_name(index), prompt.text, own, prompt.negative, init, inputs=prompt.inputs))
    return made


def check_count(count: int, n: int) -> None:
    """Check that images are not more than one folder takes.

    Args:
        count: Their number.
        n: The option that asks for so many of each prompt.

    Raises:
        ValueError: Where they are.
    """
    if count > MOST_IMAGES:
        raise ValueError(
            f"n={n} asks for {count:,} images, and one folder takes {MOST_IMAGES:,} at most; give a smaller n, and make the "
            "others in further folders, by another out= and seed="
        )


def given_fields(requests: Sequence[SampleRequest], *, resized: bool) -> Fields:
    """Return the fields that requests of one size give: captions of their prompts, and those of their inputs.

    Args:
        requests: The requests, all with the same inputs.
        resized: Resize what lies on the images until it just covers them; false: cut away what is too much.

    Raises:
        ValueError: Where an input cannot be read.
    """
    samples = [
        {
            INPUTS[name].field: INPUTS[name].read(source, request.size or Size(1, 1), resized=resized)
            for name, source in request.inputs.items()
        }
        for request in requests
    ]
    return {"caption": [request.prompt or "" for request in requests], **collate_fields(samples)}


def with_class_numbers(request: SampleRequest, conditioner: Conditioner) -> SampleRequest:
    """Return a request whose inputs say classes by their numbers.

    Args:
        request: The request.
        conditioner: The conditioner that reads the inputs, which knows the names of the classes or not.

    Raises:
        ValueError: Where a class has no such name.
    """
    try:
        own, there = (
            {
                name: INPUTS[name].with_numbers(source, class_names(conditioner, INPUTS[name].field).number)
                for name, source in inputs.items()
            }
            for inputs in (request.inputs, request.to_inputs)
        )
    except ValueError as error:
        raise ValueError(f"for {request.file}: {error}") from error
    return replace(request, inputs=own, to_inputs=there)


def check_numbers(requests: Sequence[SampleRequest], readers: Sequence[Reader]) -> None:
    """Check that a model knows the numbers of classes that requests give, outright or in files; each is read once.

    Args:
        requests: The requests, whose classes have numbers.
        readers: The parts that read the inputs: the model's conditioner, and readers of its guidance.

    Raises:
        ValueError: Where there is no class of some number, or a file cannot be read.
    """
    ranges = [one for reader in readers for one in reader.ranges]
    ranged = {one.field for one in ranges}
    seen = set()
    for request in requests:
        for name, source in (*request.inputs.items(), *request.to_inputs.items()):
            one = INPUTS[name]
            if one.field not in ranged or (name, repr(source)) in seen:
                continue
            seen.add((name, repr(source)))
            value = one.read(source, one.size(source) or Size(1, 1), resized=True)
            fields, keys = collate_fields([{one.field: value}]), [one.place(source) or request.title]
            for values in ranges:
                values.check(fields, keys, advice="give one of these: the model was trained with no others")


def check_given(request: SampleRequest, reads: Collection[str], given: Collection[str]) -> None:
    """Check that a request says all that a model reads, and nothing that it does not read.

    Args:
        request: The request.
        reads: Names of the fields that the model reads.
        given: Names of the fields that are given beside those of the request.

    Raises:
        ValueError: Where an input is missing or plays no part.
    """
    chosen = {INPUTS[name].field: name for name in request.inputs}
    if request.prompt is not None:
        chosen["caption"] = "prompt"
    options = _options_of_fields()
    missing = [options.get(name, name) for name in reads if name not in {*chosen, *given, "geometry"}]
    if missing:
        mode, covered = next((OF_MODES[name] for name in OF_MODES if name in missing), ("", ()))
        typed = [mode] * bool(mode) + [f"{name}=..." for name in missing if name not in covered]
        unread = _words([option for name, option in chosen.items() if name not in reads])
        raise ValueError(
            f"this model is {_conditioned(reads)}"
            f"{f', not {unread}' if unread else ''}, and for {request.file} "
            f"{_words(missing)} {'is' if len(missing) == 1 else 'are'} missing; give {' '.join(typed)}"
        )
    given_there = {INPUTS[name].field: f"to_{name}" for name in request.to_inputs}
    idle = [
        option for name, option in (*chosen.items(), *given_there.items()) if name not in reads and name != "caption"
    ]
    if idle:
        raise ValueError(
            f"{_words(idle)} would change nothing: this model is {_conditioned(reads)}; "
            f"leave {'it' if len(idle) == 1 else 'them'} out"
        )


def idle_prompts(requests: Sequence[SampleRequest], reads: Collection[str]) -> str | None:
    """Return a warning where there are prompts that no model reads; None where there are none.

    Args:
        requests: The requests.
        reads: Names of the fields that the models read.
    """
    if "caption" in reads or not any(request.prompt for request in requests):
        return None
    return f"the prompt changes nothing: this model is {_conditioned(reads)}{', not on captions' if reads else ''}"


def texts_of(requests: Sequence[SampleRequest]) -> Iterator[str]:
    """Yield the texts that a model reads for some requests: first all prompts, then the others."""
    yield from (request.prompt for request in requests if request.prompt is not None)
    for request in requests:
        yield from filter(None, (request.negative, request.init_prompt, request.to_prompt))


def _options_of_fields() -> dict[str, str]:
    """Return the name of a field -> the option that gives it."""
    return {INPUTS[name].field: name for name in INPUTS} | {"caption": "prompt"}


def _conditioned(reads: Collection[str]) -> str:
    """Return a description of a model by its conditions: the options that give the fields that it reads."""
    options = _options_of_fields()
    return f"conditioned on {_words([options.get(name, name) for name in reads])}" if reads else "unconditional"


def _words(names: Sequence[str]) -> str:
    """Return names as they are said in a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
