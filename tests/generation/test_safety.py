"""What `sample.py` must not do: overwrite a user's files, call something an image that is none, read prompts wrongly."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm.checkpoint import find, load, read, save
from ldm.files.tensors import write_tensors
from ldm.generation.folder import SampleFolder
from ldm.generation.request import SampleRequest
from ldm.generation.start import ImageStart, InpaintStart, InterpolationStart, InvertedStart
from ldm.generation.writer import generate
from ldm.guidance.base import NoGuidance
from ldm.interop.foreign import CONFIG_KEY
from ldm.sampler.ddim import DDIM
from tests.conftest import forked
from tests.generation.test_sample import PROMPT, first_mismatch, pixels, sample


def photos(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    for index in range(2):
        Image.new("RGB", (32, 32), (90 * index, 20, 40)).save(folder / f"{index:05d}.png")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.e2e
def test_a_folder_of_somebodys_images_is_refused_before_anything_is_loaded(tmp_path):
    before = photos(tmp_path / "photos")
    for options in ([PROMPT], ["mode=img2img", f"init={tmp_path}/photos", PROMPT, "n=2", "batch_size=2"]):
        text = sample("/nowhere", tmp_path / "photos", *options, ok=False)
        assert "holds what was not written by this program (00000.png, 00001.png); nothing was changed" in text
        assert "photos-2" in text
    assert {path.name: path.read_bytes() for path in (tmp_path / "photos").iterdir()} == before


def test_only_files_of_ours_that_the_record_lists_are_replaced(tmp_path):
    folder = SampleFolder(tmp_path / "out")
    with folder.lock():
        folder.begin([json.dumps({"file": "00000.png"})])
    (tmp_path / "out" / "00000.png").write_text("ours")
    folder.check()
    (tmp_path / "out" / "mine.png").write_text("theirs")
    with pytest.raises(ValueError, match=r"\(mine.png\)"):
        folder.check()
    record = [json.dumps({"file": name}) for name in ("00000.png", "mine.png", "../00001.png", "a\u2028b.png")]
    (tmp_path / "out" / "samples.jsonl").write_text("\n".join(record))
    (tmp_path / "00001.png").write_text("theirs")
    with pytest.raises(ValueError, match=r"\(mine.png\)"):
        folder.check()
    (tmp_path / "out" / "mine.png").unlink()
    with folder.lock():
        folder.begin([])
    assert not (tmp_path / "out" / "00000.png").exists()
    assert (tmp_path / "00001.png").read_text() == "theirs", "a record cannot name files elsewhere"


@pytest.mark.parametrize("option", ["init", "mask", "prompts", "ckpt", "decoder"])
def test_what_is_read_may_not_lie_where_images_go(tmp_path, option):
    folder = SampleFolder(tmp_path / "out")
    with folder.lock():
        folder.begin([json.dumps({"file": "00000.png"})])
    (tmp_path / "out" / "00000.png").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    for place in ("out", "link"):
        with pytest.raises(ValueError, match=f"{option}=.*lies in out="):
            folder.check([(option, str(tmp_path / place / "00000.png"))])


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, r"weights of the model are not finite \(denoiser.backbone.conv_out.bias is the first\)"),
        (math.inf, "weights of the model are not finite"),
        (1e30, r"sampling 'a red heart' with seed 0 went astray"),
    ],
)
def test_an_image_that_is_none_is_an_error(tiny_run, value, message):
    model = load(tiny_run)
    with torch.no_grad():
        model.denoiser.backbone.conv_out.bias.fill_(value)
    with pytest.raises(ValueError, match=message):
        model.sample(prompts="a red heart")


@pytest.mark.e2e
def test_a_decoder_that_gives_no_numbers_is_an_error(tiny_run):
    model = load(tiny_run)
    with torch.no_grad():
        model.autoencoder.decoder.conv_out.weight.fill_(3e38)
        model.autoencoder.decoder.conv_out.bias.fill_(3e38)
    with pytest.raises(ValueError, match=r"the image of 'a red heart' with seed 7 holds values that are not finite"):
        model.sample(prompts="a red heart", seeds=[7])


@pytest.mark.e2e
@pytest.mark.parametrize("scale", ["nan", "inf", "1e30"])
def test_scales_that_cannot_be_are_refused(tmp_path, scale):
    text = sample("/nowhere", tmp_path / "x", PROMPT, f"guidance.scale={scale}", ok=False)
    assert "guidance.scale=" in text
    assert "cannot be; give a finite number" in text
    assert not (tmp_path / "x").exists()


@pytest.mark.e2e
def test_each_job_of_a_sweep_has_a_folder(tiny_run, tmp_path):
    text = forked(
        *("sample.py", "-m", f"ckpt={tiny_run}", f"out={tmp_path / 'sweep'}", PROMPT, "n=1", "device=cpu"),
        *("sampler.steps=2", "guidance.scale=1,3"),
    )
    folders = [tmp_path / "sweep" / f"guidance.scale={scale}" for scale in (1, 3)]
    assert [list(pixels(folder)) for folder in folders] == [["00000.png"]] * 2
    assert all(str(folder / "grid.png") in text for folder in folders)
    assert pixels(folders[0]) != pixels(folders[1])
    shutil.rmtree(folders[0])


@pytest.mark.e2e
def test_in_python_one_text_is_one_prompt_and_one_seed_counts_on(tiny_run):
    model, options = load(tiny_run), {"sampler": DDIM(2)}
    one = model.sample(prompts="a red heart", seeds=5, **options)
    assert torch.equal(one, model.sample(prompts=[" a red heart\n"], seeds=[5], **options))
    two = model.sample(prompts=("a red heart", "a cat"), seeds=5, negative="a dog", **options)
    assert torch.equal(
        two,
        model.sample(
            {"caption": ["a red heart", "a cat"]}, seeds=torch.tensor([5, 6]), negative=["a dog"] * 2, **options
        ),
    )
    image = two[:1]
    described = [InvertedStart(image.expand(2, -1, -1, -1), ["a cat"] * 2, 0.5), InvertedStart(image, "a cat", 0.5)]
    first, second = (
        model.sample(prompts=["a", "b"], start=start, guidance=NoGuidance(), batch_size=1, sampler=DDIM(8))
        for start in described
    )
    assert torch.equal(first, second)
    way = model.sample(prompts="a red heart", seeds=5, start=InterpolationStart("a cat", 5, [0.0]), **options)
    torch.testing.assert_close(way, one, atol=0.02, rtol=0)
    for mistake, message in [
        ({"prompts": 3}, "a prompt is a text, and several are a list of texts; got 3"),
        ({"prompts": ["a", None]}, "a prompt is a text"),
        ({"negative": 3}, "a prompt is a text"),
        ({"negative": ["a", "b"]}, "negative is one text, or one an image; got 2 for 1"),
        ({"seeds": 1.5}, "seeds=1.5 cannot be; give a whole number"),
        ({"seeds": True}, "seeds=true cannot be"),
        ({"seeds": [2**63]}, "seeds=9223372036854775808 cannot be"),
        ({"seeds": "5"}, "seeds=5 cannot be"),
        ({"seeds": [1, 2]}, "got 1 prompts and 2 seeds"),
        ({"batch_size": 0}, "batch_size=0 cannot be"),
        ({"size": 0}, "size=0 cannot be"),
        ({"start": ImageStart(image[0])}, "images to begin with are"),
        ({"start": ImageStart(image * torch.nan)}, "not finite"),
        ({"start": ImageStart(image), "size": [32, 64]}, r"are of size 32, not \[32,64\]; leave size out"),
        ({"start": InpaintStart(image, image)}, r"masks are \(N, 1, 32, 32\), as the images"),
        ({"start": InvertedStart(image, ["a", "b"])}, "one text for each of 1 images to begin with is needed; got 2"),
        (
            {"start": InterpolationStart(["a", "b"], [1, 2], [0.0, 1.0])},
            "for each of 1 images; got 2 prompts and 2 shares",
        ),
        ({"start": InterpolationStart("a", 1, [torch.nan])}, "fractions=nan cannot be"),
        ({"fields": {"caption": ["a"]}}, "give one of prompts="),
        ({"prompts": None}, "give one of prompts="),
        ({"prompts": None, "fields": ["a"]}, r"prompts go by name: prompts=\[...\]"),
        ({"prompts": None, "fields": {"caption": ["a"], "label": [3, 4]}}, "fields have one value for each image"),
        ({"prompts": None, "fields": {"label": [3]}}, "the field caption is needed, but .* are: geometry, label"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.sample(**{"prompts": "a", **mistake})


@pytest.mark.e2e
def test_what_guidance_reads_may_not_lie_where_images_go(tmp_path):
    """Nor is it looked at what the checkpoint is, before that is said."""
    folder = SampleFolder(tmp_path / "out")
    with folder.lock():
        folder.begin([json.dumps({"file": "00000.png"})])
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "out" / "00000.png")
    place = f"guidance.score.image.path={tmp_path / 'out' / '00000.png'}"
    text = sample(
        "/nowhere", tmp_path / "out", PROMPT, "guidance=low_resolution", place, "guidance.score.image.size=8", ok=False
    )
    assert f"{place} lies in out=" in text
    assert (tmp_path / "out" / "00000.png").is_file()


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "no finished checkpoint (model.safetensors) below"),
        (["diffusion/checkpoints/step-00000020.ckpt"], "the run has not ended, and its checkpoints are not"),
        (["model.safetensors"], "is not a readable safetensors file"),
    ],
)
def test_a_ckpt_that_is_none_is_said(tmp_path, made, message):
    (tmp_path / "run").mkdir()
    for name in made:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("")
    text = sample(tmp_path / "run", tmp_path / "x", PROMPT, ok=False)
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "x").exists()


@pytest.mark.e2e
def test_a_damaged_model_and_one_that_goes_astray_write_no_image(tiny_run, tmp_path):
    before, (config, weights) = photos(tmp_path / "photos"), read(find(tiny_run))
    weights["autoencoder.decoder.conv_out.bias"][0] = math.inf
    write_tensors(tmp_path / "broken.safetensors", weights, {CONFIG_KEY: json.dumps(config)})
    options = ["mode=reconstruct", f"init={tmp_path / 'photos'}"]
    text = sample(tmp_path / "broken.safetensors", tmp_path / "x", *options, ok=False)
    assert "the weights of the model are not finite (decoder.conv_out.bias is the first)" in text
    options = [
        PROMPT,
        "n=2",
        "seed=4",
        "guidance.scale=1000",
        "sampler.eta=1",
        "guidance.interval=[0,1]",
        "batch_size=1",
    ]
    model = load(tiny_run)
    with torch.no_grad():
        model.denoiser.backbone.conv_out.bias.fill_(1e9)
    save(tmp_path / "astray.safetensors", model, config)
    text = sample(tmp_path / "astray.safetensors", tmp_path / "x", *options, ok=False)
    assert "sampling 'a red heart on a white background' with seed 4 went astray" in text
    assert "Traceback" not in text
    assert not pixels(tmp_path / "x")
    assert {path.name for path in (tmp_path / "photos").iterdir()} == before.keys()


@pytest.mark.e2e
def test_seeds_and_negatives_of_json_lines_are_those_of_a_record(tiny_run, tmp_path):
    """So a record makes its images again."""
    rows = [{"prompt": "a red heart", "seed": 9, "negative": "a cat"}, {"prompt": "a blue cat"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sample(
        tiny_run, tmp_path / "x", f"prompts={tmp_path / 'p.jsonl'}", "n=1", "seed=3", 'negative="a dog"', "batch_size=1"
    )
    text = (tmp_path / "x" / "samples.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [(found["seed"], found["negative"]) for found in records] == [(9, "a cat"), (4, "a dog")]
    sample(tiny_run, tmp_path / "y", f"prompts={tmp_path / 'x' / 'samples.jsonl'}", "n=1")
    assert all(first_mismatch(tmp_path / "x" / name, tmp_path / "y" / name) <= 2 for name in pixels(tmp_path / "x"))
    options = [f"prompts={tmp_path / 'p.jsonl'}", "guidance=none"]
    assert "with this guidance there is none" in sample(tiny_run, tmp_path / "z", *options, ok=False)


def test_a_record_has_no_number_that_json_does_not_know(tmp_path):
    asked, folder = [SampleRequest("00000.png")], SampleFolder(tmp_path / "x")
    with pytest.raises(ValueError, match="no finite number: .*'mine': nan"):
        generate(None, asked, folder, condition_pictures=None, settings={"mine": float("nan")})
    assert not (tmp_path / "x").exists()
