import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops, ImageDraw

from ldm.batch import Size
from ldm.checkpoint import find, load, load_autoencoder, read, save
from ldm.config import CONFIGS, build, compose
from ldm.files.picture import to_levels, to_picture, to_tensor
from ldm.generation.images import InitImages
from ldm.generation.pictures import find_images, read_image
from ldm.generation.prompts import Prompt, read_prompts
from ldm.generation.request import SampleRequest, numbered
from ldm.generation.start import ImageStart, InpaintStart, InterpolationStart, InvertedStart
from ldm.guidance.autoguidance import Autoguidance
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.guidance.loss import LossGuidance
from ldm.guidance.low_resolution import LowResolutionScore
from ldm.model import Start
from ldm.sampler.ddim import DDIM
from ldm.sampler.dpmpp import DPMPP2MSDE
from tests.conftest import ROOT, command, forked

PROMPT = 'prompt="a red heart on a white background"'


def sample(run, out, *options, ok=True, run_script=forked):
    return run_script("sample.py", f"ckpt={run}", f"out={out}", "sampler.steps=5", "device=cpu", *options, ok=ok)


def pixels(folder):
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("0*.png"))}


def first_mismatch(a, b):
    """Largest difference of two pictures in levels."""
    return max(high for _, high in ImageChops.difference(Image.open(a), Image.open(b)).getextrema())


@pytest.mark.e2e
def test_writes_images_grid_and_record_and_repeats_bitwise(tiny_run, tmp_path):
    text = sample(tiny_run, tmp_path / "a", PROMPT, "n=3", "seed=4")
    assert "3 images" in text
    names = sorted(path.name for path in (tmp_path / "a").glob("[!.]*"))
    assert names == ["00000.png", "00001.png", "00002.png", "grid.png", "samples.jsonl"]
    records = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == [4, 5, 6]
    assert records[0]["prompt"] == "a red heart on a white background"
    assert records[0]["sampler"]["steps"] == 5
    assert records[0]["guidance"]["scale"] == 1.5
    sample(tiny_run, tmp_path / "b", PROMPT, "n=3", "seed=4", run_script=command)  # by another process
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")
    sample(tiny_run, tmp_path / "b", PROMPT, "n=1", "seed=6")
    assert list(pixels(tmp_path / "b")) == ["00000.png"], "what the record no longer lists is gone"
    assert first_mismatch(tmp_path / "a" / "00002.png", tmp_path / "b" / "00000.png") <= 2
    assert len(set(pixels(tmp_path / "a").values())) == 3


SAMPLERS = sorted(path.stem for path in (CONFIGS / "sampler").glob("*.yaml"))


@pytest.mark.e2e
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_the_same_image_for_the_same_seed_in_any_batch(tiny_run, sampler):
    """Stochastic ones included."""
    model, options = load(tiny_run), [f"sampler={sampler}", "sampler.steps=6"]
    if sampler in ("euler", "heun"):
        options.append("sampler.churn.amount=5")
    made = build(compose("sample", ["ckpt=none", *options]).sampler)
    prompts = ["a red heart on a white background", "a blue cat on a black background", "a green dog"]
    together = to_levels(model.sample(prompts=prompts, seeds=[3, 4, 5], sampler=made)).int()
    alone = to_levels(model.sample(prompts=prompts[1:2], seeds=[4], sampler=made)).int()
    turned = to_levels(model.sample(prompts=prompts[::-1], seeds=[5, 4, 3], sampler=made, batch_size=2)).int()
    assert (alone[0] - together[1]).abs().max() <= 2
    assert (turned.flip(0) - together).abs().max() <= 2
    other = to_levels(model.sample(prompts=prompts[:1], seeds=[9], sampler=made)).int()
    assert (other[0] - together[0]).abs().max() > 2


@pytest.mark.e2e
def test_any_batch_size_and_number_of_processes_gives_the_same_images(tiny_run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red heart\n\na blue cat\n")
    options = ["tests.sample_all", str(tiny_run), str(tmp_path / "prompts.txt")]
    forked("-m", *options, str(tmp_path / "one"), "4")
    two = ["torch.distributed.run", "--nproc-per-node=2", "--master-port=29611"]
    command("-m", *two, "-m", *options, str(tmp_path / "two"), "1")
    for sampler in SAMPLERS:
        one, two = (tmp_path / name / sampler for name in ("one", "two"))
        assert len(pixels(one)) == 4
        for name in pixels(one):
            assert first_mismatch(one / name, two / name) <= 2, sampler
        assert (one / "samples.jsonl").read_text() == (two / "samples.jsonl").read_text()


@pytest.mark.e2e
def test_in_every_mode_an_image_does_not_depend_on_its_batch(tiny_run, photo):
    """By stochastic samplers, and with every kind of guidance that needs no other network."""
    model = load(tiny_run)
    prompts, seeds = ["a red heart on a white background", "a blue cat", "a green dog"], [3, 4, 5]
    images = torch.stack([read_image(str(photo / "init.png"), 32).roll(shift, 2) for shift in (0, 3, 6)])
    mask = torch.zeros(3, 1, 32, 32)
    mask[..., 16:] = 1
    noisy, quiet = DPMPP2MSDE(6), DDIM(6)
    ways = {
        "img2img": {"start": ImageStart(images, 0.6), "sampler": noisy},
        "edited": {"start": InvertedStart(images, ["a heart"] * 3, 0.6), "sampler": quiet, "guidance": NoGuidance()},
        "inpaint": {"start": InpaintStart(images, mask, num_resample=2), "sampler": noisy},
        "interpolate": {"start": InterpolationStart(prompts[::-1], [7, 8, 9], [0.2, 0.5, 0.8]), "sampler": noisy},
        "low_resolution": {
            "guidance": LossGuidance(LowResolutionScore(images[0, :, ::4, ::4], std=0.5)),
            "sampler": noisy,
        },
        "autoguidance": {"guidance": Autoguidance(load(tiny_run), scale=2.0), "sampler": noisy},
        "rescaled": {"guidance": ClassifierFreeGuidance(3.0, rescale=0.5, threshold=2.0), "sampler": noisy},
    }
    for way, options in ways.items():
        together = to_levels(model.sample(prompts=prompts, seeds=seeds, **options)).int()
        rows = {name: part.rows(slice(1, 2)) for name, part in options.items() if isinstance(part, Start)}
        alone = to_levels(model.sample(prompts=prompts[1:2], seeds=seeds[1:2], **{**options, **rows})).int()
        assert (alone[0] - together[1]).abs().max() <= 2, way
        assert (together[0] - together[1]).abs().max() > 2, way


@pytest.mark.e2e
def test_python_interface(tiny_run):
    assert load(tiny_run).sample(prompts=["a red heart on a white background"]).shape == (1, 3, 32, 32)


@pytest.mark.e2e
def test_errors_are_one_clear_line(tiny_run, tmp_path):
    for options, message in [
        ([], "prompt is missing; give prompt=..."),
        ([PROMPT, "n=0"], "n=0 cannot be; give a whole number, at least 1"),
        ([PROMPT, "size=30"], "image size 30 is not a multiple of 8, by which autoencoder and network divide it"),
        ([PROMPT, "n=1.5"], "n=1.5 cannot be; give a whole number"),
        ([PROMPT, "batch_size=0"], "batch_size=0 cannot be; give a whole number"),
        ([PROMPT, "seed=20000000000000000000"], "seed=20000000000000000000 cannot be"),
        ([PROMPT, "device=cuda:99"], "there is no device=cuda:99 here"),
        ([PROMPT, "sampler.steps=2.5"], "sampler.steps=2.5 cannot be; give a whole number, at least 1"),
        ([PROMPT, "strength=0.5"], "strength has no meaning for mode=txt2img; with it, say mode=img2img"),
        ([PROMPT, "mode=reconstruct", "init=a.png"], "prompt has no meaning for mode=reconstruct"),
        ([PROMPT, "guidance=none", "negative=cat"], "with this guidance there is none"),
        ([PROMPT, "mode=img2img"], "mode=img2img needs init=FILE"),
        ([PROMPT, "init=a.png"], "init has no meaning for mode=txt2img; with it, say mode=img2img or mode=inpaint"),
        ([PROMPT, "mode=img2img", "init=/nowhere.png"], "no image at /nowhere.png"),
        ([PROMPT, "seed=true"], "seed=true cannot be; give a whole number, at least 0"),
        ([PROMPT, "seed=abc"], "seed=abc cannot be; give a whole number, at least 0"),
        ([PROMPT, "device=meta"], "there is no device=meta here"),
        ([PROMPT, "packages=mine"], "packages is a list; say packages=[ldm,mine]"),
        ([PROMPT, "to_seed=3"], "to_seed has no meaning for mode=txt2img; with it, say mode=interpolate"),
        ([PROMPT, "mode=interpolate"], "an interpolation needs another end"),
        (
            [PROMPT, "mode=interpolate", "to_label=3"],
            "to_label would change nothing: this model is conditioned on prompt",
        ),
    ]:
        text = sample(tiny_run, tmp_path / "x", *options, ok=False)
        assert message in text
        assert "Traceback" not in text
    assert "is a file; choose another" in sample(tiny_run, __file__, PROMPT, ok=False)
    assert "no checkpoint at" in sample(tmp_path / "none", tmp_path / "x", PROMPT, ok=False)
    assert "the option ckpt has no value" in sample("", tmp_path / "x", PROMPT, ok=False)
    assert "not a latent diffusion model" in sample(
        tiny_run / "autoencoder.safetensors", tmp_path / "x", PROMPT, ok=False
    )
    assert not (tmp_path / "x").exists()


def test_prompts_and_requests(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffone\r\n\n two \n".encode())
    assert read_prompts(None, str(tmp_path / "p.txt")) == [Prompt("one"), Prompt("two")]
    assert [(r.file, r.prompt, r.seed) for r in numbered([Prompt("one"), Prompt("two")], 2, 5)] == [
        ("00000.png", "one", 5),
        ("00001.png", "one", 6),
        ("00002.png", "two", 7),
        ("00003.png", "two", 8),
    ]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="no prompts in"):
        read_prompts(None, str(tmp_path / "empty.txt"))


@pytest.mark.e2e
def test_help_is_readable():
    text = subprocess.run(
        [sys.executable, "sample.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "ckpt" in text
    for group in ("sampler", "timestep_spacing", "guidance"):
        assert ", ".join(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))) in text


@pytest.fixture(scope="module")
def photo(tiny_run, tmp_path_factory):
    """A picture of the model's side and a mask of its right half."""
    folder = tmp_path_factory.mktemp("photo")
    picture = Image.new("RGB", (32, 32), (200, 40, 90))
    ImageDraw.Draw(picture).ellipse((4, 4, 27, 27), fill=(20, 180, 60))
    picture.save(folder / "init.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    mask.save(folder / "mask.png")
    return folder


@pytest.mark.e2e
def test_image_to_image_changes_as_much_as_is_asked_for(tiny_run, photo, tmp_path):
    options = [PROMPT, "mode=img2img", f"init={photo / 'init.png'}", "n=2", "sampler.steps=10"]
    far = []
    for strength in (0, 0.3, 1):
        text = sample(tiny_run, tmp_path / "x", *options, f"strength={strength}")
        assert "2 images" in text
        reconstruction = load(tiny_run).autoencoder.image(_latent(tiny_run, photo / "init.png"))[0].clamp(-1, 1)
        image = to_tensor(Image.open(tmp_path / "x" / "00000.png"))
        far.append(float((image - reconstruction).abs().mean()))
    assert far[0] < 0.01, "of nothing, the autoencoder alone is seen"
    assert far[0] < far[1] < far[2]
    record = json.loads((tmp_path / "x" / "samples.jsonl").read_text().splitlines()[1])
    assert record["mode"] == "img2img"
    assert record["strength"] == 1
    assert record["init"].endswith("init.png")


def _latent(run, file):
    autoencoder = load(run).autoencoder
    return autoencoder.to_latent(autoencoder.encode(to_tensor(Image.open(file))[None]).mean)


@pytest.mark.e2e
@pytest.mark.parametrize("sampler", [["sampler=ddim"], ["sampler=unipc"], ["sampler=ddpm", "num_resample=2"]])
def test_inpainting_keeps_what_is_not_masked_bitwise_beyond_the_border(tiny_run, photo, tmp_path, sampler):
    init, mask = photo / "init.png", photo / "mask.png"
    sample(
        tiny_run, tmp_path / "x", PROMPT, "mode=inpaint", f"init={init}", f"mask={mask}", "n=2", "border=3", *sampler
    )
    before = Image.open(init)
    for name in ("00000.png", "00001.png"):
        after = Image.open(tmp_path / "x" / name)
        kept = (0, 0, 13, 32)
        assert after.crop(kept).tobytes() == before.crop(kept).tobytes()
        assert ImageChops.difference(after.crop((16, 0, 32, 32)), before.crop((16, 0, 32, 32))).getbbox() is not None
    assert len(set(pixels(tmp_path / "x").values())) == 2, "another seed, another image"


def read_masked(file, mask, size):
    """The image in a file, and a mask of it, cut to a size; as batches of one."""
    request = SampleRequest("00000.png", init=file, size=size)
    return InitImages(file, size, mode="inpaint").read_masked([request], mask)


@pytest.mark.e2e
def test_a_size_far_from_that_of_training_is_made_and_warned_of(tiny_run, tmp_path):
    warning = "images of 64 x 64 pixels are asked of a model that was trained on 32 x 32"
    text = sample(tiny_run, tmp_path / "x", PROMPT, "n=1", "size=64")
    assert text.count(warning) == 1
    assert "1 image in" in text
    assert "are asked of a model" not in sample(tiny_run, tmp_path / "x", PROMPT, "n=2", "size=[32,48]")


@pytest.mark.e2e
def test_what_is_wrong_is_said_before_what_is_missing(tiny_run, photo, tmp_path):
    options = ["mode=super_resolution", f"low_resolution={photo / 'init.png'}"]
    text = sample(tiny_run, tmp_path / "x", *options, ok=False)
    assert "this model has none; give a model that was trained with conditioner=low_resolution" in text
    options = [PROMPT, "mode=inpaint", f"init={photo / 'init.png'}", "mask=/nowhere.png"]
    assert "there is no image at /nowhere.png; give a file" in sample(tiny_run, tmp_path / "x", *options, ok=False)


@pytest.mark.e2e
def test_inpainting_does_not_know_what_was_there(tiny_run, photo):
    model, image = load(tiny_run), to_tensor(Image.open(photo / "init.png"))[None]
    mask = read_masked(str(photo / "init.png"), str(photo / "mask.png"), Size(32, 32))[1]
    black = torch.where(mask > 0, -1.0, image)
    first, second = (
        model.sample(prompts=["a red heart"], start=InpaintStart(before, mask, border=0)) for before in (image, black)
    )
    assert torch.equal(first, second)


@pytest.mark.e2e
def test_images_of_an_earlier_command_stay_where_the_next_one_fails(tiny_run, tmp_path):
    sample(tiny_run, tmp_path / "x", PROMPT, "n=2")
    before = pixels(tmp_path / "x")
    (tmp_path / "broken.png").write_text("no image")
    options = [PROMPT, "n=1", "mode=img2img", f"init={tmp_path / 'broken.png'}"]
    assert "cannot be read as an image" in sample(tiny_run, tmp_path / "x", *options, ok=False)
    assert pixels(tmp_path / "x") == before


@pytest.mark.e2e
def test_an_image_to_begin_with_is_not_replaced_by_those_made_of_it(tiny_run, tmp_path):
    sample(tiny_run, tmp_path / "x", PROMPT, "n=1")
    before = pixels(tmp_path / "x")
    options = [PROMPT, "n=1", "mode=img2img", f"init={tmp_path / 'x' / '00000.png'}"]
    assert "whose images are replaced; choose another folder" in sample(tiny_run, tmp_path / "x", *options, ok=False)
    assert pixels(tmp_path / "x") == before
    assert [Path(file).name for file in find_images(str(tmp_path / "x"))] == ["00000.png"], "without grid.png"


@pytest.mark.e2e
def test_a_described_image_is_not_made_with_other_noise(tiny_run, photo, tmp_path):
    options = ["mode=img2img", f"init={photo / 'init.png'}", 'init_prompt="a heart"', "sampler=ddpm"]
    text = sample(tiny_run, tmp_path / "x", PROMPT, *options, ok=False)
    assert "to which DDPM would add other; choose a sampler that adds none, like sampler=ddim" in text


@pytest.mark.e2e
def test_each_image_of_a_folder_is_changed_by_each_prompt(tiny_run, photo, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red heart\na blue cat\n")
    options = ["mode=img2img", f"init={photo}", f"prompts={tmp_path / 'prompts.txt'}", "n=2", "seed=3"]
    sample(tiny_run, tmp_path / "x", *options)
    records = [json.loads(line) for line in (tmp_path / "x" / "samples.jsonl").read_text().splitlines()]
    seen = [(Path(record["init"]).name, record["prompt"], record["seed"]) for record in records]
    names = [(init, prompt) for init in ("init.png", "mask.png") for prompt in ("a red heart", "a blue cat")]
    assert seen == [(*name, 3 + index) for index, name in enumerate(name for name in names for _ in range(2))]
    assert len(set(pixels(tmp_path / "x").values())) == 8


@pytest.mark.e2e
def test_a_described_image_comes_back_from_its_own_noise(tiny_run, photo):
    """Inverted and made again with the same prompt, by the same steps; the usual noise would change it."""
    model, image = load(tiny_run), to_tensor(Image.open(photo / "init.png"))[None]
    options = {"sampler": DDIM(20), "guidance": NoGuidance()}
    plain = model.sample(prompts=[""], start=ImageStart(image, 0.0), **options)
    again, drawn = (
        model.sample(prompts=["a red heart"], start=start, **options)
        for start in (InvertedStart(image, ["a red heart"], 0.7), ImageStart(image, 0.7))
    )
    assert float((again - plain).abs().max()) < 0.02
    assert float((drawn - plain).abs().mean()) > 10 * float((again - plain).abs().mean())


@pytest.mark.e2e
def test_masks_touch_each_pixel_of_which_they_hold_a_part(photo, tmp_path):
    """Large pictures, larger masks: nothing of what is masked is left beside it, not even by the smoothing."""
    large = (500, 333)
    picture, stroke = Image.effect_noise(large, 90).convert("RGB"), Image.new("RGBA", large)
    ImageDraw.Draw(stroke).line((100, 300, 380, 20), fill="white", width=3)
    stroke.save(tmp_path / "stroke.png")
    seen = []
    for color in ("red", "blue"):
        ImageDraw.Draw(picture).line((100, 300, 380, 20), fill=color, width=3)
        picture.save(tmp_path / "picture.png")
        seen.append(read_masked(str(tmp_path / "picture.png"), str(tmp_path / "stroke.png"), Size(32, 32)))
    (red, (mask,)), (blue, _) = seen
    assert torch.equal(red, blue)
    assert mask.sum() > 30, "a line over the whole height"
    columns = mask[0].amax(0).nonzero().flatten()
    assert torch.equal(columns, torch.arange(int(columns[0]), int(columns[-1]) + 1)), "without gaps"


@pytest.mark.e2e
def test_masks_that_do_not_fit_are_refused(tiny_run, photo, tmp_path):
    Image.new("L", (16, 32), 255).save(tmp_path / "small.png")
    Image.new("L", (32, 32)).save(tmp_path / "black.png")
    Image.new("RGB", (96, 32)).save(tmp_path / "wide.png")
    edge = Image.new("L", (96, 32))
    edge.paste(255, (0, 0, 8, 32))
    edge.save(tmp_path / "edge.png")
    options = [PROMPT, "mode=inpaint", f"init={tmp_path / 'wide.png'}", f"mask={tmp_path / 'edge.png'}", "size=32"]
    text = sample(tiny_run, tmp_path / "x", *options, ok=False)
    assert "masks nothing of what is left when the image is cut to 32 x 32 pixels; white is made anew" in text
    assert not (tmp_path / "x").exists()
    for name, message in (
        ("small", "the mask is 16 pixels wide and 32 high, but"),
        ("black", "masks nothing; white is made anew"),
    ):
        with pytest.raises(ValueError, match=message):
            InitImages(str(photo / "init.png"), None, mode="inpaint").check(str(tmp_path / f"{name}.png"))
        options = [PROMPT, "mode=inpaint", f"init={photo / 'init.png'}", f"mask={tmp_path / name}.png"]
        assert message in sample(tiny_run, tmp_path / "x", *options, ok=False)


@pytest.mark.e2e
def test_an_interpolation_ends_at_both_its_ends(tiny_run, tmp_path):
    end = 'to_prompt="a blue cat on a black background"'
    sample(tiny_run, tmp_path / "way", PROMPT, end, "mode=interpolate", "n=5", "seed=1", "to_seed=2")
    sample(tiny_run, tmp_path / "first", PROMPT, "n=1", "seed=1")
    sample(tiny_run, tmp_path / "last", end.removeprefix("to_"), "n=1", "seed=2")
    assert first_mismatch(tmp_path / "way" / "00000.png", tmp_path / "first" / "00000.png") <= 2
    assert first_mismatch(tmp_path / "way" / "00004.png", tmp_path / "last" / "00000.png") <= 2
    assert len(set(pixels(tmp_path / "way").values())) == 5


@pytest.mark.e2e
def test_reconstruct_needs_no_prompt_and_takes_a_folder(tiny_run, photo, tmp_path):
    sample(tiny_run, tmp_path / "x", "mode=reconstruct", f"init={photo}")
    assert len(pixels(tmp_path / "x")) == 2
    autoencoder, _ = load_autoencoder(tiny_run)
    with torch.no_grad():
        image = autoencoder.decode(autoencoder.encode(to_tensor(Image.open(photo / "init.png"))[None]).mean)[0]
    to_picture(image).save(tmp_path / "alone.png")
    assert first_mismatch(tmp_path / "x" / "00000.png", tmp_path / "alone.png") <= 1


@pytest.mark.e2e
def test_another_decoder_of_the_same_encoder_is_used_and_any_other_refused(tiny_run, tmp_path):
    autoencoder, config = load_autoencoder(tiny_run)
    with torch.no_grad():
        autoencoder.decoder.conv_out.bias += 0.3
    save(tmp_path / "tuned.safetensors", autoencoder, config)
    sample(tiny_run, tmp_path / "a", PROMPT, "n=1")
    sample(tiny_run, tmp_path / "b", PROMPT, "n=1", f"decoder={tmp_path / 'tuned.safetensors'}")
    before, after = (to_tensor(Image.open(tmp_path / name / "00000.png")) for name in "ab")
    inside = (before.abs() < 0.6) & (after.abs() < 0.95)
    torch.testing.assert_close((after - before)[inside].mean(), torch.tensor(0.3), atol=0.01, rtol=0)
    with torch.no_grad():
        autoencoder.encoder.conv_in.weight += 0.1
    save(tmp_path / "other.safetensors", autoencoder, config)
    text = sample(tiny_run, tmp_path / "c", PROMPT, "n=1", f"decoder={tmp_path / 'other.safetensors'}", ok=False)
    assert "experiment=finetune_decoder" in text


@pytest.mark.e2e
def test_a_negative_prompt_leads_away_from_it(tiny_run):
    model = load(tiny_run)
    prompt = "a red heart on a white background"
    plain = model.sample(prompts=[prompt], guidance=ClassifierFreeGuidance(1.0))
    torch.testing.assert_close(
        model.sample(prompts=[prompt], negative=prompt, guidance=ClassifierFreeGuidance(5.0)), plain, atol=2e-3, rtol=0
    )
    other = model.sample(prompts=[prompt], negative="a blue cat", guidance=ClassifierFreeGuidance(50.0))
    assert not torch.equal(other, model.sample(prompts=[prompt], guidance=ClassifierFreeGuidance(50.0)))


@pytest.mark.e2e
def test_autoguidance_leads_away_from_a_second_checkpoint(tiny_run, tmp_path):
    """Further with a larger scale; from the same weights not at all."""
    model, config = load(tiny_run), read(find(tiny_run))[0]
    save(tmp_path / "weak.safetensors", scramble_some(model), config)
    far = []
    for scale in (1, 2, 4):
        options = ["guidance=autoguidance", f"guidance.weak.path={tmp_path / 'weak.safetensors'}", "n=1"]
        sample(tiny_run, tmp_path / str(scale), PROMPT, *options, f"guidance.scale={scale}")
        images = (to_tensor(Image.open(tmp_path / str(place) / "00000.png")) for place in (1, scale))
        far.append(float((next(images) - next(images)).abs().mean()))
    assert far[0] == 0 < 1.2 * far[1] < far[2]


def scramble_some(model):
    """A worse model: its denoiser's weights are disturbed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.e2e
def test_autoguidance_by_a_checkpoint_of_the_run_itself(tiny_run, tmp_path):
    weak = tiny_run / "diffusion" / "checkpoints" / "step-00000020.ckpt"
    options = [PROMPT, "n=1", "guidance=autoguidance", f"guidance.weak.path={weak}"]
    sample(tiny_run, tmp_path / "x", *options, "guidance.scale=3")
    sample(tiny_run, tmp_path / "y", PROMPT, "n=1", "guidance=none")
    assert first_mismatch(tmp_path / "x" / "00000.png", tmp_path / "y" / "00000.png") <= 2, (
        "the same weights: nothing to lead from"
    )
    text = sample(tiny_run, tmp_path / "z", PROMPT, "guidance=autoguidance", ok=False)
    assert "the option guidance.weak.path has no value" in text


@pytest.mark.e2e
def test_guidance_by_a_smaller_image_needs_no_training(tiny_run, photo, tmp_path):
    small = [f"guidance.score.image.path={photo / 'init.png'}", "guidance.score.image.size=8"]
    far = []
    for scale in (0, 1):
        options = [
            PROMPT,
            "n=1",
            "guidance=low_resolution",
            *small,
            f"guidance.scale={scale}",
        ]
        sample(tiny_run, tmp_path / "x", *options)
        images = (to_tensor(Image.open(path)) for path in (photo / "init.png", tmp_path / "x" / "00000.png"))
        first, second = (torch.nn.functional.avg_pool2d(image, 4) for image in images)
        far.append(float((first - second).square().mean()))
    assert far[1] < 0.9 * far[0]
    text = sample(tiny_run, tmp_path / "x", PROMPT, "guidance=low_resolution", ok=False)
    assert "the option guidance.score.image.path has no value" in text
    text = sample(tiny_run, tmp_path / "x", PROMPT, "guidance=clip", "guidance.score.name=/nowhere", ok=False)
    assert "no CLIP model '/nowhere'" in text
