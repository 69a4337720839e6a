"""Images that are made of others by models that were trained for it: enlarged, and completed; and decoding in tiles."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.batch import Size
from ldm.checkpoint import MODEL_FILE, load, save
from ldm.conditioner.in_pictures import class_colors
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.config import build, build_literally, compose, resolved
from ldm.files.picture import to_levels
from ldm.generation.images import InitImages
from ldm.generation.mode.base import PromptGenerator
from ldm.generation.mode.interpolate import Interpolate
from ldm.generation.mode.super_resolution import SuperResolution, reflected
from ldm.generation.prompts import Prompt
from ldm.generation.request import SampleRequest
from ldm.generation.sample import sample
from ldm.guidance.base import NoGuidance
from ldm.sampler.ddim import DDIM
from tests.configs import composed
from tests.conftest import forked, scramble

CAPTIONS = ["a red heart on a white background", "a blue cat"] * 8

SIZES = {"a": (9, 13), "b": (8, 8), "c": (1, 5)}
"""Name -> width and height of a small picture; no model can divide the first and the last."""


def made(folder, choice, *options, conditioner=None):
    """Write a model with random weights as a run does, and return its folder."""
    config = composed(
        "train", "experiment=txt2img", f"conditioner={choice}", "name=x", "backbone.model_channels=16",
        "backbone.groups=8", "autoencoder.network.channels=8", "autoencoder.network.groups=4", "sampler.steps=2", *options,
    )  # fmt: skip
    if conditioner is not None:
        config.conditioner = conditioner
    settings = resolved(config.model)
    model = build(settings)
    model.conditioner.prepare(iter([{"caption": CAPTIONS}]))
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
    """Return name -> folder of a model that enlarges by 4, of one that fills holes, and of an unconditional one."""
    folder = tmp_path_factory.mktemp("runs")
    return {choice: made(folder, choice) for choice in ("low_resolution", "inpainting", "unconditional")}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Return the folder of a model that reads a caption and an image of low resolution, and was trained with noise up to 0.5."""
    folder = tmp_path_factory.mktemp("noisy")
    low = "conditioner.parts.low_resolution"
    text = ["width=32", "depth=1", "heads=2", "head_width=16", "max_tokens=8", "vocabulary=300"]
    return made(
        folder, "text_and_low_resolution", *(f"conditioner.parts.text.{option}" for option in text), f"{low}.noise=0.5",
        f"{low}.vector_width=16", f"{low}.drop_rate=0.1",
    )  # fmt: skip


MAPS = {"segmentation": {"num_classes": 5, "concat_channels": 4}, "depth": {"concat_channels": 1}}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Return name of a map -> folder of a model conditioned on such a map and an image of low resolution."""
    folder, found = tmp_path_factory.mktemp("mapped"), {}
    for name, options in MAPS.items():
        parts = {
            "map": {"_target_": f"ldm.conditioner.{name}.{name.title()}Conditioner", **options},
            "low": {"_target_": "ldm.conditioner.low_resolution.LowResolutionConditioner", "factor": 4},
        }
        channels = 3 + options["concat_channels"]
        whole = {"_target_": "ldm.conditioner.composite.Composite", "parts": parts, "concat_channels": channels}
        found[name] = made(folder / name, "unconditional", conditioner=whole)
    return found


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
    _, named = draw(runs["low_resolution"], tmp_path / "named", "mode=super_resolution", f"prompts={lines}")
    assert all(np.array_equal(images[name], named[name]) for name in images), "a file can name a picture in each line"
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


def test_noise_is_added_to_a_picture_as_much_as_is_asked_for_and_conditions(noisy, small, tmp_path):
    options = ["mode=super_resolution", "prompt='a red heart'", f"low_resolution={small}", "n=1", "seed=3"]
    record, plain = draw(noisy, tmp_path / "plain", *options)
    assert "noise_level" not in record[0]
    _, zero = draw(noisy, tmp_path / "zero", *options, "noise_level=0")
    record, some = draw(noisy, tmp_path / "some", *options, "noise_level=0.25")
    assert [row["noise_level"] for row in record] == [0.25] * 3
    _, again = draw(noisy, tmp_path / "again", *options, "noise_level=0.25", "batch_size=1")
    _, most = draw(noisy, tmp_path / "most", *options, "noise_level=0.5")
    for name in plain:
        assert np.array_equal(plain[name], zero[name])
        assert np.array_equal(some[name], again[name]), "the same seed, the same bytes"
        assert len({images[name].tobytes() for images in (plain, some, most)}) == 3

    model = load(noisy)
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    fields = {"caption": ["a red heart"] * 2, "low_resolution": image, "noise_level": [0.25, 0.0]}
    both, alone = (model.sample(fields, seeds=seeds, size=32, sampler=DDIM(2)) for seeds in ([4, 5], [9, 5]))
    assert torch.equal(both[1], alone[1])
    without = model.sample({**fields, "noise_level": [0.0, 0.0]}, seeds=[4, 5], size=32, sampler=DDIM(2))
    assert torch.equal(both[1], without[1])
    assert not torch.allclose(both[0], without[0])
    with pytest.raises(
        ValueError, match="noise_level has the value 0.6, but with conditioner.noise=0.5 values are 0 to 0.5"
    ):
        model.sample({**fields, "noise_level": [0.1, 0.6]}, size=32)


def test_prompts_and_negative_prompts_lead_a_model_that_reads_both(noisy, small, tmp_path):
    options = ["mode=super_resolution", f"low_resolution={small}", "n=1", "seed=3"]
    red, blue = "prompt='a red heart on a white background'", "prompt='a blue cat'"
    record, first = draw(noisy, tmp_path / "first", *options, red)
    assert [row["prompt"] for row in record] == ["a red heart on a white background"] * 3
    assert [row["size"] for row in record] == [[52, 36], [32, 32], [20, 4]]
    _, second = draw(noisy, tmp_path / "second", *options, blue)
    _, away = draw(noisy, tmp_path / "away", *options, red, "negative='a blue cat'", "guidance.scale=3")
    _, from_nothing = draw(noisy, tmp_path / "nothing", *options, red, "guidance.scale=3")
    for name in first:
        assert not np.array_equal(first[name], second[name])
        assert not np.array_equal(away[name], from_nothing[name])
    lines = tmp_path / "lines.jsonl"
    given = [("a blue cat", "a.png"), ("a red heart on a white background", "b.png")]
    lines.write_text("".join(json.dumps({"prompt": text, "low_resolution": str(small / file), "seed": seed}) + "\n"
                             for (text, file), seed in zip(given, (3, 4), strict=True)))  # fmt: skip
    _, named = draw(noisy, tmp_path / "lines", "mode=super_resolution", f"prompts={lines}")
    assert np.array_equal(named["00000.png"], second["00000.png"])
    assert np.array_equal(named["00001.png"], first["00001.png"])
    with pytest.raises(
        ValueError, match="this model is conditioned on prompt and low_resolution.*prompt is missing; give prompt="
    ):
        draw(noisy, tmp_path / "x", *options)


@pytest.mark.parametrize("name", MAPS)
def test_maps_beside_a_picture_go_on_as_it_does(mapped, small, tmp_path, name):
    """Also where they are of another resolution; those of another shape are refused."""
    model, file = load(mapped[name]), str(small / "a.png")
    levels = np.random.default_rng(1).integers(0, 5, (52, 36), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "map.png")
    mode = SuperResolution([Prompt(inputs={name: str(tmp_path / "map.png")})], file)
    generator = PromptGenerator(mode, model, sampler=DDIM(2), guidance=NoGuidance())
    requests = generator.prepare(mode.requests(1, 7))
    picture = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 127.5 - 1
    condition = (
        torch.from_numpy(levels)[None].long()
        if name == "segmentation"
        else torch.from_numpy(levels)[None, None] / 127.5 - 1
    )
    fields = {"low_resolution": reflected(picture, Size(14, 10)), name: reflected(condition, Size(56, 40))}
    whole = model.sample(fields, seeds=7, size=[56, 40], sampler=DDIM(2), guidance=NoGuidance())
    torch.testing.assert_close(generator(requests), whole[..., :52, :36], atol=1e-5, rtol=0)
    other = model.sample(
        {**fields, name: fields[name].flip(-1)}, seeds=7, size=[56, 40], sampler=DDIM(2), guidance=NoGuidance()
    )
    assert not torch.allclose(other, whole, atol=1e-3), "the map is seen"

    large = Image.fromarray(levels.repeat(3, 0).repeat(3, 1))
    large.save(tmp_path / "large.png")
    _, images = draw(
        mapped[name], tmp_path / "one", "mode=super_resolution", f"low_resolution={file}", f"{name}={tmp_path}/map.png"
    )
    _, same = draw(
        mapped[name],
        tmp_path / "two",
        "mode=super_resolution",
        f"low_resolution={file}",
        f"{name}={tmp_path}/large.png",
    )
    assert np.abs(images["00000.png"].astype(int) - same["00000.png"]).max() <= 1
    large.crop((0, 0, 108, 108)).save(tmp_path / "square.png")
    with pytest.raises(
        ValueError, match=f"for 00000.png, {name} is of 108 x 108 pixels, .* another shape than .* 52 x 36"
    ):
        draw(
            mapped[name],
            tmp_path / "x",
            "mode=super_resolution",
            f"low_resolution={file}",
            f"{name}={tmp_path}/square.png",
        )


def test_boxes_stay_where_they_were_on_the_picture(small):
    mode = SuperResolution(
        [Prompt(inputs={"layout": [{"label": 2, "box": [0.0, 0.5, 1.0, 1.0]}]})], str(small / "a.png")
    )
    low = LowResolutionConditioner(4)
    model = SimpleNamespace(conditioner=low, size_multiple=8)
    (request,) = mode.requests(1, 0)
    request = replace(request, size=mode.size_of(request, model))
    boxes = mode.fields([request], model)["boxes"]
    torch.testing.assert_close(boxes, torch.tensor([[[2.0, 0.0, 26 / 56, 36 / 40, 52 / 56]]]))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("low_resolution", ["mode=super_resolution", "low_resolution=SMALL", "noise_level=0.1"],
         r"noise_level=0.1 is of models that were trained with noise, .* \(conditioner.noise=0\): .*; leave it out"),
        ("low_resolution", ["mode=super_resolution", "low_resolution=SMALL", "noise_level=1.5"],
         "noise_level=1.5 cannot be; give a finite number, at least 0, at most 1"),
        ("noisy", ["mode=super_resolution", "low_resolution=SMALL", "noise_level=0.6", "prompt=a"],
         "noise_level=0.6 is more than this model has seen in training; give at most 0.5"),
        ("unconditional", ["mode=super_resolution", "low_resolution=SMALL"],
         "this model has none; give a model that was trained with conditioner=low_resolution"),
        ("low_resolution", ["prompt='a cat'"], "low_resolution is missing; give mode=super_resolution low_resolution="),
        ("low_resolution", ["mode=super_resolution", "low_resolution=SMALL", "label=3"], "label would change nothing"),
        ("inpainting", ["mode=super_resolution", "low_resolution=SMALL"],
         "this model has none; give a model that was trained with conditioner=low_resolution"),
        ("inpainting", ["mode=inpaint", "init=INIT", "mask=MASK", "num_resample=2"], "num_resample=2 would change nothing"),
        ("low_resolution", ["mode=inpaint", "init=INIT", "mask=MASK"], "low_resolution is missing"),
        ("inpainting", ["mode=inpaint", "init=INIT"], "mode=inpaint needs mask=FILE"),
    ],
)  # fmt: skip
def test_a_model_with_other_conditions_is_refused(runs, noisy, small, photo, tmp_path, model, options, message):
    named = {"SMALL": small, "INIT": photo / "init.png", "MASK": photo / "mask.png"}
    for word, path in named.items():
        options = [option.replace(word, str(path)) for option in options]
    with pytest.raises(ValueError, match=message):
        draw({**runs, "noisy": noisy}[model], tmp_path / "x", *options)
    assert not list(tmp_path.glob("x/*.png"))


def test_a_model_that_fills_holes_sees_the_picture_and_the_rest_comes_back_bit_by_bit(runs, photo, tmp_path):
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
    assert "1 image in" in text
    text = forked("sample.py", "ckpt=x", "mode=super_resolution", ok=False)
    assert "mode=super_resolution needs low_resolution=FILE" in text


def shown(folder, width):
    """Return the rows of pixels of a grid of one column, as they are before it is enlarged."""
    sheet = np.asarray(Image.open(folder / "grid.png"))
    factor = 512 // width
    return sheet[2:-2, 2:-2][::factor, ::factor]


def test_the_grid_shows_the_small_image_above_the_enlarged_one(runs, small, tmp_path):
    _, images = draw(
        runs["low_resolution"], tmp_path / "x", "mode=super_resolution", f"low_resolution={small / 'c.png'}"
    )
    (image,) = images.values()
    assert image.shape == (20, 4, 3), "as without a grid"
    enlarged = np.asarray(Image.open(small / "c.png")).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(shown(tmp_path / "x", 4), np.concatenate([enlarged, image]))


def test_the_grid_shows_all_conditions_of_a_model(mapped, small, tmp_path):
    classes = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8) % 5
    Image.fromarray(classes).resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / "map.png")
    options = [f"low_resolution={small / 'b.png'}", f"segmentation={tmp_path / 'map.png'}"]
    _, images = draw(mapped["segmentation"], tmp_path / "x", "mode=super_resolution", *options)
    rows = shown(tmp_path / "x", 32)
    assert rows.shape == (96, 32, 3)
    assert np.array_equal(rows[:32:4, ::4], np.asarray(Image.open(small / "b.png")))
    assert np.array_equal(rows[32:64:4, ::4], to_levels(class_colors(torch.tensor(classes).long())).numpy())
    assert np.array_equal(rows[64:], images["00000.png"])


def test_the_grid_shows_the_hole_above_what_fills_it(runs, photo, tmp_path):
    options = [f"init={photo / 'init.png'}", f"mask={photo / 'mask.png'}"]
    _, images = draw(runs["inpainting"], tmp_path / "x", "mode=inpaint", *options)
    image = images["00000.png"]
    height, width, _ = image.shape
    condition, made = np.split(shown(tmp_path / "x", width), [height])
    assert np.array_equal(made, image)
    hole = (condition == (255, 0, 255)).all(-1)
    assert hole[height - 1, 0]
    assert not hole[: height // 2 - 2].any()
    assert not hole[:, width // 2 + 1 :].any()


def test_an_interpolation_shows_the_conditions_on_the_way(mapped, tmp_path):
    """Depth maps of two ends, one dark and one light."""
    model = load(mapped["depth"])
    for name, level in (("dark", 0), ("light", 255)):
        Image.new("L", (16, 16), level).save(tmp_path / f"{name}.png")
    inputs = {"depth": str(tmp_path / "dark.png")}
    mode = Interpolate([Prompt("", inputs=inputs)], to_inputs={"depth": str(tmp_path / "light.png")})
    generator = PromptGenerator(mode, model, sampler=DDIM(steps=1), guidance=NoGuidance())
    requests = [replace(request, size=Size(16, 16)) for request in mode.requests(5, 0)]
    levels = [generator.condition_pictures(request).unique().tolist() for request in requests]
    assert levels == [[-1.0], [-0.5], [0.0], [0.5], [1.0]]
