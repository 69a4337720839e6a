"""All programs answer alike: help, mistakes, the config that options make, sweeps, plug-ins."""

import os
import re
import sys
from pkgutil import resolve_name

import pytest

from ldm.cli.command_line import read_words
from ldm.cli.entry import show
from ldm.cli.help import help_text
from ldm.config import CONFIGS, compose
from tests.conftest import ROOT, forked

PROGRAMS = {
    "train": ["train.py"],
    "sample": ["sample.py"],
    "pack": ["-m", "ldm.data.pack"],
    "encode": ["-m", "ldm.encode"],
    "neighbors": ["-m", "ldm.data.neighbors"],
    "ema": ["-m", "ldm.ema"],
    "evaluate": ["-m", "ldm.evaluate"],
    "compare": ["-m", "ldm.compare"],
    "report": ["-m", "ldm.report"],
    "plan": ["-m", "ldm.plan"],
    "fetch": ["-m", "ldm.fetch"],
    "interop_load": ["-m", "ldm.interop.load"],
    "interop_export": ["-m", "ldm.interop.export"],
    "icons": ["-m", "ldm.cli.icons"],
    "openmoji": ["-m", "ldm.cli.openmoji"],
}

PLUGIN = str(ROOT / "tests" / "plugin" / "configs")
"""A folder with configs of somebody else."""


@pytest.mark.e2e
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_prints_help_mistakes_and_its_config(name):
    text = forked(*PROGRAMS[name], "--help")
    assert " ".join(["python", *PROGRAMS[name]]) in text
    assert "Options (option=value)" in text
    text = forked(*PROGRAMS[name], "nothing=1", ok=False)
    assert "error: there is no option " in text
    text = forked(*PROGRAMS[name], "out=a", "red", "heart", ok=False)
    if name == "fetch":  # whose words are names
        assert "error: there is nothing to fetch by the name 'red'; choose from " in text
    elif name in ("compare", "report"):  # whose words are runs
        assert "error: there is no run red" in text
    elif name == "interop_load":  # whose word is a source
        assert "error: give one file or folder" in text
    else:
        assert "error: 'red' is no option; where it belongs to " in text
        assert "out, put the whole in quotes: " in text
    assert "Traceback" not in text
    without_seed = ("pack", "ema", "evaluate", "fetch", "compare", "report", "interop_load", "interop_export")
    assert "\nseed:" in forked(*PROGRAMS[name], "--cfg", "job") or name in without_seed


def test_programs_name_functions_that_are_imported_late():
    files = [*(ROOT / "ldm").rglob("__main__.py"), *(ROOT / "ldm" / "cli").glob("*.py")]
    named = dict(call for file in files for call in re.findall(r'program\("(\w+)", "([\w.:]+)"', file.read_text()))
    assert named.keys() == PROGRAMS.keys() - {"train", "sample"}, "these two have further duties, and give a function"
    assert all(callable(resolve_name(function)) for function in named.values())


def test_help_lists_options_with_their_comments_and_choices():
    text = help_text("train", read_words(["experiment=txt2img"]))
    experiments = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
    assert f"{', '.join(experiments)} (txt2img)" in text
    for line in ("seed=0", "stage.diffusion.trainer.max_steps=2300"):
        assert f"\n  {line}\n" in text
    assert "stage.diffusion.batch_size=32 " in text
    assert "images an optimiser step, over all processes and accumulated batches" in text
    assert "_target_" not in text
    text = help_text("sample", read_words(["guidance=low_resolution"]))
    assert "guidance.score.image.size=???               to which it is made smaller" in text
    text = help_text("icons", read_words([]), under="data.source")
    assert "\n  count=64   " in text
    assert "data.source" not in text


def test_who_reads_help_may_stop_at_any_line(monkeypatch):
    end, begin = os.pipe()
    os.close(end)
    with open(begin, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        show("a line\n" * 100_000)
        print("more", flush=True)


def test_help_says_how_it_was_begun(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/ldm-train"])
    text = help_text("train", read_words([]))
    assert "  ldm-train experiment=txt2img  " in text
    assert "train.py e" not in text


@pytest.mark.e2e
def test_a_program_can_be_swept(tmp_path):
    text = forked(
        "-m", "ldm.cli.icons", f"folder={tmp_path}", "count=2", "size=8,16", "-m", f"hydra.sweep.dir={tmp_path}/sweep"
    )
    assert text.count("training and") == 2
    assert len(list(tmp_path.glob("icons-*"))) == 2


@pytest.mark.e2e
@pytest.mark.parametrize(("name", "first"), [("train", "experiment=txt2img"), ("sample", "ckpt=x")])
def test_configs_of_a_folder_beside_ours_are_found(name, first):
    program = PROGRAMS[name]
    assert "steps: 12" in forked(*program, "--config-dir", PLUGIN, first, "sampler=midpoint", "--cfg", "job")
    assert "sampler.steps=12                            two calls of the denoiser each" in forked(
        *program, "-cd", PLUGIN, "sampler=midpoint", "--help"
    )
    text = forked(*program, first, "sampler=midpoint", "sampler.stepps=1", "--config-dir", PLUGIN, ok=False)
    assert "there is no option sampler.stepps; did you mean sampler.steps" in text
    assert "steps: 12" in forked(
        *program, f"hydra.searchpath=[file://{PLUGIN}]", first, "sampler=midpoint", "--cfg", "job"
    )
    text = forked(*program, first, "sampler=midpoind", "--config-dir", PLUGIN, ok=False)
    assert "did you mean midpoint?" in text
    assert compose(name, ["sampler=midpoint", f"hydra.searchpath=[file://{PLUGIN}]"]).sampler.steps == 12


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("words", "message"), [("train.py seed=1,2", "no experiment was named"), ("sample.py n=1,2", "option ckpt has no")]
)
def test_a_sweep_without_a_value_that_must_be_given_does_not_begin(words, message, tmp_path):
    text = forked(*words.split(), "-m", f"hydra.sweep.dir={tmp_path}/sweep", ok=False)
    assert message in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_missing_folder_of_configs_is_reported():
    text = forked("train.py", "--config-dir", "/nowhere", "experiment=txt2img", ok=False)
    assert "error: there is no folder /nowhere" in text
    assert "Traceback" not in text


@pytest.mark.e2e
def test_prompts_are_swept(tiny_run, tmp_path):
    out = f"out={tmp_path / 'out'}"
    prompts = 'prompt=choice("a red, {big} cat","it\'s blue")'
    text = forked(
        "sample.py", "-m", f"ckpt={tiny_run},{tiny_run / 'model.safetensors'}", prompts, "n=1", "sampler.steps=2", out
    )
    assert text.count("1 image in") == 4
    found = {line for file in (tmp_path / "out").glob("*/samples.jsonl") for line in file.read_text().splitlines()}
    assert len(found) == 4
    assert sum('"a red, {big} cat"' in line for line in found) == 2
