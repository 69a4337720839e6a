import json
import subprocess
import sys

import pytest
from PIL import Image, ImageChops

from ldm.generate import orders, read_prompts
from tests.conftest import ROOT, command

PROMPT = 'prompt="a red heart on a white background"'


def sample(run, out, *options, ok=True):
    return command("sample.py", f"ckpt={run}", f"out={out}", "sampler.steps=5", "device=cpu", *options, ok=ok)


def pixels(folder):
    return {path.name: Image.open(path).tobytes() for path in sorted(folder.glob("0*.png"))}


def apart(a, b):
    """Largest difference of two pictures in levels."""
    return max(high for _, high in ImageChops.difference(Image.open(a), Image.open(b)).getextrema())


def test_writes_images_grid_and_record_and_repeats_bitwise(tiny_run, tmp_path):
    text = sample(tiny_run, tmp_path / "a", PROMPT, "n=3", "seed=4")
    assert "3 images" in text
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "grid.png", "samples.jsonl"]
    records = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == [4, 5, 6]
    assert records[0]["prompt"] == "a red heart on a white background"
    assert records[0]["sampler"]["steps"] == 5
    assert records[0]["guidance"]["scale"] == 2.0
    sample(tiny_run, tmp_path / "b", PROMPT, "n=3", "seed=4")
    assert pixels(tmp_path / "a") == pixels(tmp_path / "b")
    sample(tiny_run, tmp_path / "b", PROMPT, "n=1", "seed=6")
    assert list(pixels(tmp_path / "b")) == ["00000.png"], "what the record no longer lists is gone"
    assert apart(tmp_path / "a" / "00002.png", tmp_path / "b" / "00000.png") <= 2
    assert len(set(pixels(tmp_path / "a").values())) == 3


@pytest.mark.parametrize("sampler", [["sampler=ddim", "sampler.eta=1"], ["sampler=ddpm"]])
def test_any_batch_size_and_number_of_processes_gives_the_same_images(tiny_run, tmp_path, sampler):
    (tmp_path / "prompts.txt").write_text("a red heart\n\na blue cat\n")
    options = [
        *sampler,
        f"prompts={tmp_path / 'prompts.txt'}",
        "n=2",
        "seed=9",
        f"ckpt={tiny_run}",
        "sampler.steps=5",
        "device=cpu",
    ]
    command("sample.py", *options, f"out={tmp_path / 'one'}", "batch_size=4")
    command(
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=29611",
        "sample.py",
        *options,
        f"out={tmp_path / 'two'}",
        "batch_size=1",
    )
    assert len(pixels(tmp_path / "one")) == 4
    for name in pixels(tmp_path / "one"):
        assert apart(tmp_path / "one" / name, tmp_path / "two" / name) <= 2
    assert (tmp_path / "one" / "samples.jsonl").read_text() == (tmp_path / "two" / "samples.jsonl").read_text()


def test_python_interface(tiny_run):
    from ldm.checkpoint import load

    assert load(tiny_run).sample(["a red heart on a white background"]).shape == (1, 3, 32, 32)


def test_errors_are_one_clear_line(tiny_run, tmp_path):
    for options, message in [
        ([], "give one of prompt="),
        ([PROMPT, "n=0"], "at least 1; got 0"),
        ([PROMPT, "side=30"], "image side 30 is not a multiple of 4"),
        ([PROMPT, "sampler.steps=0"], "at least 1 step"),
    ]:
        text = sample(tiny_run, tmp_path / "x", *options, ok=False)
        assert message in text
        assert "Traceback" not in text
    assert "no checkpoint at" in sample(tmp_path / "none", tmp_path / "x", PROMPT, ok=False)


def test_prompts_and_orders(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n two \n")
    assert read_prompts(None, str(tmp_path / "p.txt")) == ["one", "two"]
    assert [(o.file, o.prompt, o.seed) for o in orders(["one", "two"], 2, 5)] == [
        ("00000.png", "one", 5),
        ("00001.png", "one", 6),
        ("00002.png", "two", 7),
        ("00003.png", "two", 8),
    ]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="no prompts in"):
        read_prompts(None, str(tmp_path / "empty.txt"))


def test_help_is_readable():
    text = subprocess.run(
        [sys.executable, "sample.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "ckpt" in text
    assert "guidance" in text
