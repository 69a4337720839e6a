"""Modes: their options and files, and images that are not square."""

import inspect
import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.batch import Size
from ldm.checkpoint import load
from ldm.config import CONFIGS, build_literally, compose, resolved
from ldm.files.picture import to_levels
from ldm.generation.images import InitImages
from ldm.generation.mode.base import Mode, PromptGenerator, far_from_training
from ldm.generation.mode.img2img import Img2Img
from ldm.generation.mode.inpaint import Inpaint
from ldm.generation.mode.txt2img import Txt2Img
from ldm.generation.options import misplaced, mode_options
from ldm.generation.pictures import read_image
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest
from ldm.generation.writer import batches
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.guidance.loss import LossGuidance
from ldm.sampler.ddim import DDIM
from tests.conftest import forked
from tests.generation.test_sample import PROMPT, first_mismatch, sample

MODES = mode_options([CONFIGS])
OF_PROMPTS = {"prompt", "prompts", "negative"}
CONDITIONS = ("label", "layout", "segmentation", "depth", "image", "neighbors")


def size_of(path):
    with Image.open(path) as image:
        return image.size


def random_picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three pictures of which no two have one shape, and a mask of the lower left quarter of the first, which is 41 x 66."""
    folder = tmp_path_factory.mktemp("photos")
    for name, size in (("a", (41, 66)), ("b", (48, 32)), ("c", (32, 32))):
        random_picture(*size).save(folder / f"{name}.png")
    mask = Image.new("L", (41, 66))
    mask.paste(255, (0, 33, 20, 66))
    mask.save(folder.parent / "mask.png")
    return folder


def test_the_files_of_modes_tell_their_options():
    assert {
        "txt2img": OF_PROMPTS,
        "img2img": OF_PROMPTS | {"init", "strength", "compvis", "init_prompt"},
        "inpaint": OF_PROMPTS | {"init", "mask", "border", "num_resample"},
        "interpolate": OF_PROMPTS | {"to_prompt", "to_seed"} | {f"to_{name}" for name in CONDITIONS},
        "reconstruct": {"init"},
        "super_resolution": OF_PROMPTS | {"low_resolution", "noise_level"},
    } == MODES


@pytest.mark.parametrize("name", MODES)
def test_a_mode_has_the_options_of_its_file_and_no_others(name, photos):
    """Each is handed on, and is what the class has by itself where it has that."""
    config = compose("sample", ["ckpt=none", f"mode={name}"])
    node = resolved(config)["mode"]
    wired = {option for option in node if option != "_target_"} | set(node.get("prompts", {})) - {"_target_"}
    wired |= {f"to_{option}" for option in node.get("to_inputs", {})}
    assert wired - {"size", "inputs", "to_inputs"} == MODES[name]
    needed = {"prompt": "a cat", "init": str(photos), "mask": str(photos / "a.png"), "to_seed": "3"}
    needed["low_resolution"] = str(photos)
    given = ["ckpt=none", f"mode={name}", *(f"{option}={value}" for option, value in needed.items() if option in wired)]
    mode = build_literally(compose("sample", given).mode)
    assert isinstance(mode, Mode)
    assert mode.name == name
    assert type(mode).__name__.lower() == name.replace("_", "")
    assert type(mode).__module__ == f"ldm.generation.mode.{name}"
    for parameter in inspect.signature(type(mode)).parameters.values():
        if parameter.default is not parameter.empty:
            value = node[parameter.name]
            given = any(one is not None for one in value.values()) if isinstance(value, dict) else True
            assert (value if given else None) == parameter.default


@pytest.mark.e2e
def test_help_lists_the_options_of_a_mode_and_each_is_explained():
    text = forked("sample.py", "mode=inpaint", "--help")
    for name, options in MODES.items():
        assert name == "inpaint" or f"\nOptions with mode={name}: " in text
        assert [option for option in options if f"\n  {option}=" not in text] == []
        lines = (CONFIGS / "mode" / f"{name}.yaml").read_text().splitlines()
        assert {line.partition(":")[0] for line in lines if "  # " in line} == options


@pytest.mark.parametrize(
    ("words", "option", "chosen", "owners"),
    [
        (["strength=0.5"], "strength", "txt2img", "img2img"),
        (["mode=reconstruct", "init=x", "prompt='a cat'"], "prompt", "reconstruct", "img2img or mode=inpaint or mode="),
        (["init=x"], "init", "txt2img", "img2img or mode=inpaint or mode=reconstruct"),
        (["-m", "mode=img2img,inpaint", "init=x", "mask=x"], "mask", "img2img", "inpaint"),
        (["mode=interpolate", "border=3"], "border", "interpolate", "inpaint"),
        (["low_resolution=x"], "low_resolution", "txt2img", "super_resolution"),
    ],
)
def test_an_option_of_another_mode_is_answered_with_where_it_belongs(words, option, chosen, owners):
    wanted = f"{option} has no meaning for mode={chosen}; with it, say mode={owners}"
    assert misplaced(words, CONFIGS).startswith(wanted)


@pytest.mark.parametrize("options", [{"init_prompt": "a cat"}, {"strength": 0.0}], ids=str)
def test_images_that_seeds_do_not_change_are_made_once(photos, caplog, options):
    prompts = [Prompt("a dog"), Prompt("a fish", seed=7)]
    mode = Img2Img(prompts, str(photos), **options)
    found = [(request.prompt, request.init, request.seed) for request in mode.requests(4, 3)]
    assert found == [(request.prompt, request.init, request.seed) for request in mode.requests(1, 3)]
    assert len(found) == 2 * 3
    assert "n=4 images of a prompt would all be the same, since with" in caplog.text
    assert len(Img2Img(prompts, str(photos), strength=0.1).requests(4, 3)) == 4 * 2 * 3


def test_options_of_the_chosen_mode_and_of_all_modes_are_left_alone(tmp_path):
    for words in (["prompt='a=b'", "n=2"], ["mode=img2img", "strength=0.5", "-m"], ["mode=paint", "strength=1"], ["x"]):
        assert misplaced(words, CONFIGS) is None
    (tmp_path / "mode").mkdir()
    (tmp_path / "mode" / "paint.yaml").write_text("# @package _global_\nbrush: 3\nmode: {}\n")
    assert misplaced(["mode=paint", "brush=4"], CONFIGS, [tmp_path]) is None
    assert "say mode=paint" in misplaced(["brush=4"], CONFIGS, [tmp_path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mode=img2img"], "mode=img2img needs init=FILE"),
        (["mode=reconstruct"], "mode=reconstruct needs init=FILE"),
        (["mode=inpaint", "init=INIT"], "mode=inpaint needs mask=FILE"),
        (["mode=img2img", "init=/nowhere.png"], "no image at /nowhere.png"),
        (["mode=img2img", "init=INIT", "strength=nan"], "strength=nan cannot be; give a finite number, at least 0"),
        (["mode=img2img", "init=INIT", "strength=null"], "strength=null cannot be"),
        (["mode=inpaint", "init=INIT", "mask=INIT", "border=-1"], "border=-1 cannot be; give a whole number"),
        (["mode=inpaint", "init=INIT", "mask=INIT", "num_resample=0"], "num_resample=0 cannot be; give a whole number"),
        (["mode=super_resolution"], "mode=super_resolution needs low_resolution=FILE"),
        (["mode=super_resolution", "low_resolution=/no.png"], "low_resolution=/no.png: no image at /no.png"),
        (["mode=super_resolution", "low_resolution=INIT", "size=64"], "size would change nothing with mode=super_res"),
        (["mode=interpolate"], "an interpolation needs another end"),
        (["mode=interpolate", "to_label=[1,2]"], "an interpolation goes to one other end; got 2"),
        (["mode=interpolate", "to_seed=-1"], "to_seed=-1 cannot be"),
        (["size=[32]"], r"size=\[32\] cannot be; give a whole number, at least 1, or two of them"),
        (["size=0"], "size=0 cannot be"),
    ],
)
def test_a_mode_says_what_is_wrong_with_its_options(photos, options, message):
    options = [option.replace("INIT", str(photos / "a.png")) for option in options]
    prompt = [] if "mode=reconstruct" in options else ["prompt='a cat'"]
    with pytest.raises((ValueError, OSError), match=message):
        build_literally(compose("sample", ["ckpt=none", *prompt, *options]).mode)


@pytest.mark.e2e
def test_a_mode_that_is_none_and_an_option_of_another_end_the_program_with_a_line(tmp_path):
    text = sample("/nowhere", tmp_path / "x", PROMPT, "mode=paint", ok=False)
    assert "paint" in text
    assert all(name in text for name in MODES)
    text = sample("/nowhere", tmp_path / "x", PROMPT, "strength=0.5", ok=False)
    assert "error: strength has no meaning for mode=txt2img; with it, say mode=img2img\n" in text


def test_braces_and_dollars_of_prompts_stay_as_they_are():
    """They go through an interpolation on their way to the mode."""
    text = "a ${heart}, {b} $c 'd' \\e"
    mode = build_literally(compose("sample", ["ckpt=none", f"prompt={text}", "negative=${x}"]).mode)
    assert mode.prompts == [Prompt(text, negative="${x}")]


def test_images_are_read_at_their_own_size_without_resizing(photos):
    images = InitImages(str(photos), None, mode="img2img")
    first, second, third = images.files
    assert [images.size(file, 8) for file in images.files] == [Size(64, 40), Size(32, 48), Size(32, 32)]
    image = images.read([SampleRequest("", init=first, size=Size(64, 40))])
    kept = to_levels(image)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(kept, np.asarray(Image.open(first))[1:65, 0:40])
    random_picture(3, 50).save(photos.parent / "narrow.png")
    narrow = InitImages(str(photos.parent / "narrow.png"), None, mode="img2img")
    assert narrow.size(narrow.files[0], 8) == Size(48, 8)
    assert narrow.read([SampleRequest("", init=narrow.files[0], size=Size(48, 8))]).shape == (1, 3, 48, 8)
    given = InitImages(str(photos), Size(16, 24), mode="img2img")
    assert given.size(first, 8) == Size(16, 24)
    both = given.read([SampleRequest("", init=file, size=Size(16, 24)) for file in (second, third)])
    assert torch.equal(both[0], read_image(second, [16, 24]))


def test_masks_are_cut_as_their_images_are(photos):
    images = InitImages(str(photos / "a.png"), None, mode="inpaint")
    request = SampleRequest("", init=images.files[0], size=Size(64, 40))
    image, mask = images.read_masked([request], str(photos.parent / "mask.png"))
    wanted = torch.zeros(1, 1, 64, 40)
    wanted[..., 32:, :20] = 1
    assert torch.equal(mask, wanted)
    assert torch.equal((1 - mask) * image, (1 - mask) * images.read([request]))


def test_batches_hold_images_of_one_size():
    sizes = [Size(8, 8), Size(8, 16), Size(8, 8), Size(16, 8), Size(8, 8)]
    requests = [SampleRequest(str(index), size=size) for index, size in enumerate(sizes)]
    assert [[one.file for one in batch] for batch in batches(requests, 2)] == [["0", "2"], ["4"], ["1"], ["3"]]
    alike = [SampleRequest(str(index), size=Size(8, 8)) for index in range(5)]
    assert [len(batch) for batch in batches(alike, 2)] == [2, 2, 1]


@pytest.mark.e2e
def test_images_of_a_given_shape(tiny_run, tmp_path):
    sample(tiny_run, tmp_path / "x", PROMPT, "n=2", "size=[32,48]")
    assert size_of(tmp_path / "x" / "00001.png") == (48, 32)
    assert json.loads((tmp_path / "x" / "samples.jsonl").read_text().splitlines()[0])["size"] == [32, 48]


@pytest.mark.e2e
def test_images_of_different_shapes_keep_them_and_do_not_depend_on_their_company(tiny_run, photos, tmp_path):
    options = [PROMPT, "mode=img2img", "strength=0.5"]
    sample(tiny_run, tmp_path / "all", *options, f"init={photos}", "n=1", "seed=3")
    sizes = [size_of(tmp_path / "all" / f"0000{index}.png") for index in range(3)]
    assert sizes == [(40, 64), (48, 32), (32, 32)]
    records = [json.loads(line) for line in (tmp_path / "all" / "samples.jsonl").read_text().splitlines()]
    assert [(record["size"], record["seed"]) for record in records] == [([64, 40], 3), ([32, 48], 4), ([32, 32], 5)]
    sample(tiny_run, tmp_path / "one", *options, f"init={photos / 'b.png'}", "n=1", "seed=4")
    assert first_mismatch(tmp_path / "all" / "00001.png", tmp_path / "one" / "00000.png") <= 2
    sheet = size_of(tmp_path / "all" / "grid.png")
    downsampling_factor = 512 // (2 * 48)
    assert sheet == (2 * (48 * downsampling_factor + 2) + 2, 2 * (64 * downsampling_factor + 2) + 2)
    sample(tiny_run, tmp_path / "back", "mode=reconstruct", f"init={photos}")
    assert [size_of(tmp_path / "back" / f"0000{index}.png") for index in range(3)] == sizes


@pytest.mark.e2e
def test_inpainting_at_its_own_shape_keeps_the_rest(tiny_run, photos, tmp_path):
    mask = f"mask={photos.parent / 'mask.png'}"
    sample(tiny_run, tmp_path / "x", PROMPT, "mode=inpaint", f"init={photos / 'a.png'}", mask, "n=1", "border=2")
    after, before = Image.open(tmp_path / "x" / "00000.png"), Image.open(photos / "a.png").crop((0, 1, 40, 65))
    for kept in ((0, 0, 40, 30), (22, 0, 40, 64)):
        assert after.crop(kept).tobytes() == before.crop(kept).tobytes()
    assert after.crop((0, 32, 20, 64)).tobytes() != before.crop((0, 32, 20, 64)).tobytes()


@pytest.mark.e2e
def test_masks_are_looked_at_once_an_image(tiny_run, photos, monkeypatch):
    mode, seen = Inpaint([Prompt("a"), Prompt("b")], str(photos / "a.png"), str(photos.parent / "mask.png")), []
    read = mode.images.read_masked
    monkeypatch.setattr(mode.images, "read_masked", lambda *given: seen.append(given) or read(*given))
    model = load(tiny_run)
    generator = PromptGenerator(mode, model, sampler=model.sampler, guidance=model.guidance)
    assert {request.size for request in generator.prepare(mode.requests(3, 0))} == {Size(64, 40)}
    assert len(seen) == 1


@pytest.mark.e2e
def test_a_weak_model_that_cuts_prompts_is_reported(tiny_run, caplog):
    """By its own encoder, also where another guidance lies over it."""
    model, weak = load(tiny_run), load(tiny_run)
    weak.conditioner.tokenizer.enable_truncation(4)
    prompt = "a red heart on a white background"
    below = Autoguidance(weak, guidance=ClassifierFreeGuidance(2.0))
    for guidance in (below, LossGuidance(None, guidance=below)):
        mode, caplog.records[:] = Txt2Img([Prompt(prompt)]), []
        with caplog.at_level(logging.WARNING):
            PromptGenerator(mode, model, sampler=DDIM(2), guidance=guidance).prepare(mode.requests(1, 0))
        (said,) = [record.message for record in caplog.records]
        assert said.startswith(
            f"of the model that guides: the prompt {prompt!r} is longer than the model takes; cut away is '"
        )


@pytest.mark.parametrize(
    ("size", "inputs", "far"),
    [
        ((32, 32), ("caption",), False),
        ((32, 63), ("caption",), False),
        ((32, 64), ("caption",), True),
        ((17, 32), ("caption",), False),
        ((16, 32), ("caption",), True),
        ((128, 128), ("label",), True),
        ((128, 128), ("caption", "segmentation"), False),
        ((128, 128), ("masked_latent",), False),
    ],
)
def test_a_size_far_from_that_of_training_is_warned_of(size, inputs, far):
    model = SimpleNamespace(size=Size(32, 32), conditioner=SimpleNamespace(inputs=inputs))
    warning = far_from_training([Size(32, 32), Size(*size)], model)
    assert (warning is not None) == far
    if warning is not None:
        assert f"images of {size[0]} x {size[1]} pixels" in warning
        assert "trained on 32 x 32" in warning
        assert "size=[32,32] makes images of the size that it knows" in warning
