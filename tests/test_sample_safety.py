"""What `sample.py` must not do: overwrite a user's files, call something an image that is none, read prompts wrongly."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm.checkpoint import load
from ldm.orders import orders
from ldm.prompts import Prompt, read_prompts
from ldm.sample_folder import SampleFolder
from tests.conftest import forked
from tests.test_sample import PROMPT, pixels, sample


def photos(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    for index in range(2):
        Image.new("RGB", (32, 32), (90 * index, 20, 40)).save(folder / f"{index:05d}.png")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def test_one_text_is_one_prompt(tiny_run):
    model = load(tiny_run)
    wanted = model.sample(["a red heart"], seeds=[3], negative="a cat")
    assert wanted.shape == (1, 3, 32, 32)
    assert torch.equal(model.sample("a red heart", seeds=3, negative="a cat"), wanted)
    assert torch.equal(model.sample("  a red heart\n", seeds=[3], negative=["a cat "]), wanted), (
        "as captions in training"
    )
    for prompts, options, message in (
        ([1], {}, "a prompt is a text"),
        (None, {}, "a prompt is a text"),
        (["a"], {"negative": ["a", "b"]}, "negative is one text, or one a prompt; got 2 for 1"),
        (["a"], {"seeds": [1.5]}, "seeds=1.5 cannot be"),
        (["a"], {"seeds": [1, 2]}, "one seed a prompt"),
    ):
        with pytest.raises(ValueError, match=message):
            model.sample(prompts, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_an_image_that_is_none_is_an_error_and_writes_nothing(tiny_run, value):
    model = load(tiny_run)
    with torch.no_grad():
        model.denoiser.backbone.conv_out.bias.fill_(value)
    with pytest.raises(ValueError, match=r"sampling 'a red heart' with seed 0 went astray"):
        model.sample("a red heart")


def test_a_decoder_that_gives_no_numbers_is_an_error(tiny_run):
    model = load(tiny_run)
    with torch.no_grad():
        model.autoencoder.decoder.conv_out.bias.fill_(math.nan)
    with pytest.raises(ValueError, match=r"the image of 'a red heart' with seed 7 holds values that are not finite"):
        model.sample("a red heart", seeds=[7])


@pytest.mark.parametrize("scale", ["nan", "inf", "1e30"])
def test_scales_that_cannot_be_are_refused(tmp_path, scale):
    text = sample("/nowhere", tmp_path / "x", PROMPT, f"guidance.scale={scale}", ok=False)
    assert "guidance.scale=" in text
    assert "cannot be; give a finite number" in text
    assert not (tmp_path / "x").exists()


def test_only_line_ends_end_prompts(tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("a\u2028b\r\n c\x0cd \re\x85f\n\n\x0b\ng\n".encode())
    assert [prompt.text for prompt in read_prompts(None, str(file))] == ["a\u2028b", "c\x0cd", "e\x85f", "g"]


def test_prompts_with_seeds(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": " one ", "seed": 70, "negative": "x"}\n\n{"prompt": "two", "other": 1}\n')
    prompts = read_prompts(None, str(file))
    assert prompts == [Prompt("one", 70, "x"), Prompt("two")]
    made = [(order.prompt, order.seed, order.negative) for order in orders("txt2img", prompts, 2, 5)]
    assert made == [("one", 70, "x"), ("one", 71, "x"), ("two", 7, None), ("two", 8, None)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b'{"prompt": "a"}\n["b"]\n', 'line 2 of .*p.jsonl is not an object with a text "prompt"'),
        ("p.jsonl", b'{"prompt": "a", "seed": 1.5}\n', r'line 1 of .*"seed"=1.5 cannot be'),
        ("p.txt", b'{"prompt": "a"}\n', "holds JSON; rename it to p.jsonl"),
        ("p.csv", b"prompt\na\n", "files of this kind are not read"),
        ("p.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "is not a text file"),
        ("p.txt", b" \n", "no prompts in"),
        ("", b"", "is a folder; give a file"),
        ("missing.txt", None, "there is no file prompts="),
    ],
)
def test_what_is_no_file_of_prompts_is_said(tmp_path, name, content, message):
    if name and content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_prompts(None, str(tmp_path / name))


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
