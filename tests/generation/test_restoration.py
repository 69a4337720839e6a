"""Images that are made of others by models that were trained for it: enlarged, and completed; and decoding in tiles."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.batch import Size
from ldm.checkpoint import MODEL_FILE, load, save
from ldm.config import build, build_literally, compose, resolved
from ldm.generation.images import InitImages
from ldm.generation.mode.base import PromptGenerator
from ldm.generation.mode.super_resolution import SuperResolution, reflected
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest
from ldm.generation.sample import sample
from ldm.guidance.base import NoGuidance
from ldm.sampler.ddim import DDIM
from tests.configs import composed
from tests.conftest import forked, scramble

SIZES = {"a": (9, 13), "b": (8, 8), "c": (1, 5)}
"""Name -> width and height of a small picture; no model can divide the first and the last."""


def made(folder, choice, *options):
    """Write a model with random weights as a run does, and return its folder."""
    config = composed(
        "train", "experiment=txt2img", f"conditioner={choice}", "name=x", "backbone.model_channels=16",
        "backbone.groups=8", "autoencoder.network.channels=8", "autoencoder.network.groups=4", "sampler.steps=2", *options,
    )  # fmt: skip
    settings = resolved(config.model)
    model = build(settings)
    with torch.no_grad():
        for part, scale in ((model.denoiser, 4.0), (model.conditioner, 20.0), (model.autoencoder, 3.0)):
            for weight in scramble(part).parameters():
                weight *= scale
    model.autoencoder.statistics_count += 1
    file = folder / choice / MODEL_FILE
    file.parent.mkdir(parents=True)
    save(file, model, settings)
    return file.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return name -> folder of a model that enlarges by 4, of one that fills holes, and of one that is told nothing."""
    folder = tmp_path_factory.mktemp("runs")
    return {choice: made(folder, choice) for choice in ("low_resolution", "inpainting", "unconditional")}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a folder of three small pictures."""
    folder = tmp_path_factory.mktemp("small")
    for name, (width, height) in SIZES.items():
        levels = np.random.default_rng(len(name) + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Return a folder with a picture of 41 x 66 pixels and a mask of its lower left quarter."""
    folder = tmp_path_factory.mktemp("photo")
    levels = np.random.default_rng(0).integers(0, 256, (66, 41, 3), dtype=np.uint8)
    Image.fromarray(levels).save(folder / "init.png")
    mask = Image.new("L", (41, 66))
    mask.paste(255, (0, 33, 20, 66))
    mask.save(folder / "mask.png")
    return folder


def draw(run, out, *options):
    """Sample as `sample.py` does, in this process, and return the record and the images by name."""
    config = compose("sample", [f"ckpt={run}", f"out={out}", "sampler.steps=2", "device=cpu", "n=1", *options])
    sample(config)
    record = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return record, {row["file"]: np.asarray(Image.open(out / row["file"])) for row in record}


def test_pictures_go_on_by_reflection_as_often_as_it_takes():
    row = torch.arange(3.0).view(1, 1, 1, 3)
    assert reflected(row, Size(2, 9)).tolist() == [[[[0, 1, 2, 1, 0, 1, 2, 1, 0]] * 2]]
    image = torch.randn(2, 3, 5, 4)
    assert torch.equal(reflected(image, Size(5, 4)), image)


def test_a_folder_is_enlarged_each_picture_by_the_factor_of_the_model(runs, small, tmp_path):
    options = ["mode=super_resolution", "seed=3"]
    record, images = draw(runs["low_resolution"], tmp_path / "all", *options, f"low_resolution={small}")
    sizes = {row["low_resolution"]: images[row["file"]].shape[:2] for row in record}
    assert sizes == {str(small / f"{name}.png"): (4 * height, 4 * width) for name, (width, height) in SIZES.items()}
    assert [row["size"] for row in record] == [[52, 36], [32, 32], [20, 4]]
    assert [row["seed"] for row in record] == [3, 4, 5]
    assert record[0]["mode"] == "super_resolution"
    again, same = draw(runs["low_resolution"], tmp_path / "again", *options, f"low_resolution={small}")
    assert again == record
    assert all(np.array_equal(images[name], same[name]) for name in images), "the same seed, the same bytes"
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"seed": row["seed"], "low_resolution": row["low_resolution"]}) + "\n"
                             for row in record))  # fmt: skip
    _, told = draw(runs["low_resolution"], tmp_path / "told", "mode=super_resolution", f"prompts={lines}")
    assert all(np.array_equal(images[name], told[name]) for name in images), "a file can name a picture in each line"
    _, other = draw(runs["low_resolution"], tmp_path / "other", "mode=super_resolution", f"low_resolution={small}")
    assert not np.array_equal(images["00001.png"], other["00001.png"]), "another seed"


def test_what_is_cut_away_was_made_of_the_reflected_picture(runs, small):
    """The upper left part of what the model makes of the padded picture is the image, bit by bit."""
    model, file = load(runs["low_resolution"]), str(small / "a.png")
    mode = SuperResolution([Prompt()], file)
    generator = PromptGenerator(mode, model, sampler=DDIM(2), guidance=NoGuidance())
    requests = generator.prepare(mode.requests(1, 7))
    image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 127.5 - 1
    padded = reflected(image, Size(14, 10))
    whole = model.sample({"low_resolution": padded}, seeds=7, size=[56, 40], sampler=DDIM(2), guidance=NoGuidance())
    torch.testing.assert_close(generator(requests), whole[..., :52, :36], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("unconditional", ["mode=super_resolution", "low_resolution=SMALL"],
         "low_resolution would change nothing: this model is told nothing; leave it out"),
        ("low_resolution", ["prompt='a cat'"], "low_resolution is missing; give low_resolution="),
        ("low_resolution", ["mode=super_resolution", "low_resolution=SMALL", "label=3"], "label would change nothing"),
        ("inpainting", ["mode=super_resolution", "low_resolution=SMALL"],
         "this model is told image, mask, and for 00000.png image and mask is missing"),
        ("inpainting", ["mode=inpaint", "init=INIT", "mask=MASK", "num_resample=2"], "num_resample=2 would change nothing"),
        ("low_resolution", ["mode=inpaint", "init=INIT", "mask=MASK"], "low_resolution is missing"),
        ("inpainting", ["mode=inpaint", "init=INIT"], "mode=inpaint needs mask=FILE"),
    ],
)  # fmt: skip
def test_a_model_that_is_told_something_else_is_refused(runs, small, photo, tmp_path, model, options, message):
    named = {"SMALL": small, "INIT": photo / "init.png", "MASK": photo / "mask.png"}
    for word, path in named.items():
        options = [option.replace(word, str(path)) for option in options]
    with pytest.raises(ValueError, match=message):
        draw(runs[model], tmp_path / "x", *options)
    assert not list(tmp_path.glob("x/*.png"))


def test_a_model_that_fills_holes_is_told_the_picture_and_the_rest_comes_back_bit_by_bit(runs, photo, tmp_path):
    options = ["mode=inpaint", f"init={photo / 'init.png'}", f"mask={photo / 'mask.png'}", "border=2"]
    record, images = draw(runs["inpainting"], tmp_path / "x", *options)
    after, before = images["00000.png"], np.asarray(Image.open(photo / "init.png"))[1:65, :40]
    assert record[0]["size"] == [64, 40]
    assert record[0]["border"] == 2
    assert np.array_equal(after[:30], before[:30])
    assert np.array_equal(after[:, 22:], before[:, 22:])
    assert not np.array_equal(after[32:, :20], before[32:, :20])
    _, same = draw(runs["inpainting"], tmp_path / "y", *options)
    assert np.array_equal(same["00000.png"], after)


def test_what_fills_a_hole_is_what_the_model_makes_of_noise(runs, photo):
    """No step holds the known part, as it does for a model that does not read masks."""
    model = load(runs["inpainting"])
    options = [f"init={photo / 'init.png'}", f"mask={photo / 'mask.png'}", "ckpt=none", "mode=inpaint"]
    mode = build_literally(compose("sample", options).mode)
    generator = PromptGenerator(mode, model, sampler=DDIM(2), guidance=NoGuidance())
    (filled,) = generator(generator.prepare(mode.requests(1, 5)))
    request = SampleRequest("", init=str(photo / "init.png"), size=Size(64, 40))
    image, mask = InitImages(str(photo / "init.png"), None, mode="inpaint").read_masked(
        [request], str(photo / "mask.png")
    )
    (alone,) = model.sample(
        {"image": image, "mask": mask}, seeds=5, size=[64, 40], sampler=DDIM(2), guidance=NoGuidance()
    )
    hole = (mask[0] > 0).expand(3, -1, -1)
    assert torch.equal(filled[hole], alone[hole])
    (other,) = model.sample(
        {"image": image.flip(2), "mask": mask}, seeds=5, size=[64, 40], sampler=DDIM(2), guidance=NoGuidance()
    )
    assert not torch.equal(other[hole], alone[hole]), "the model sees what is left of the picture"


def test_one_tile_gives_the_same_bytes_and_several_a_small_seam(runs, small, tmp_path):
    options = ["mode=super_resolution", f"low_resolution={small / 'a.png'}"]
    record, whole = draw(runs["low_resolution"], tmp_path / "whole", *options)
    assert "tile" not in record[0]
    record, one = draw(runs["low_resolution"], tmp_path / "one", *options, "tile=64", "tile_overlap=8")
    assert (record[0]["tile"], record[0]["tile_overlap"]) == (64, 8)
    assert np.array_equal(one["00000.png"], whole["00000.png"])
    _, several = draw(runs["low_resolution"], tmp_path / "several", *options, "tile=32", "tile_overlap=16")
    difference = np.abs(several["00000.png"].astype(int) - whole["00000.png"])
    assert 0 < difference.mean() < 0.25 * whole["00000.png"].std()


def test_reconstructions_are_decoded_in_tiles_too(runs, photo, tmp_path):
    options = ["mode=reconstruct", f"init={photo / 'init.png'}"]
    _, whole = draw(runs["inpainting"], tmp_path / "whole", *options)
    _, one = draw(runs["inpainting"], tmp_path / "one", *options, "tile=128")
    record, several = draw(runs["inpainting"], tmp_path / "several", *options, "tile=32", "tile_overlap=8")
    assert np.array_equal(whole["00000.png"], one["00000.png"])
    assert not np.array_equal(whole["00000.png"], several["00000.png"])
    assert record[0]["tile_overlap"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["tile=0"], "tile=0 cannot be"),
        (["tile=34"], "tile=34 is no multiple of 4, the factor of this autoencoder; say tile=36"),
        (["tile=32"], "tile_overlap=64 cannot be"),
    ],
)
def test_tiles_that_cannot_be_are_refused_before_anything_is_written(runs, tmp_path, options, message):
    wide = [] if options == ["tile=32"] else ["tile_overlap=8"]
    with pytest.raises(ValueError, match=message):
        draw(runs["unconditional"], tmp_path / "x", *options, *wide)
    assert not (tmp_path / "x").exists()


@pytest.mark.e2e
def test_the_program_enlarges_and_completes(runs, small, photo, tmp_path):
    common = ["sampler.steps=2", "device=cpu", "n=1"]
    text = forked(
        "sample.py", f"ckpt={runs['low_resolution']}", f"out={tmp_path / 'x'}", *common, "mode=super_resolution",
        f"low_resolution={small}",
    )  # fmt: skip
    assert "3 images" in text
    text = forked(
        "sample.py", f"ckpt={runs['inpainting']}", f"out={tmp_path / 'y'}", *common, "mode=inpaint",
        f"init={photo / 'init.png'}", f"mask={photo / 'mask.png'}",
    )  # fmt: skip
    assert "1 images" in text
    text = forked("sample.py", "ckpt=x", "mode=super_resolution", ok=False)
    assert "mode=super_resolution needs low_resolution=FILE" in text
