"""The README, the pages of docs/ and the notebooks are true: their commands and code run, their links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nbclient
import nbformat
import pytest
import torch
from diffusers import StableDiffusionDepth2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from ldm import __version__
from ldm.callback.checkpoints import BEST
from ldm.cli.entry import read_command_line
from ldm.cli.mistakes import check_options
from ldm.config import CONFIGS, resolved
from ldm.ema.average import FOLDER as SNAPSHOTS
from ldm.training.init_account import INIT_FILE
from ldm.training.stages.autoencoder import NEXT_FILE
from tests.conftest import ROOT, forked
from tests.interop import checkpoints, pipelines

PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMAND = re.compile(r"python (?P<command>(?:train\.py|sample\.py|-m ldm\.)[^\n#`]*?)\s*(?:[#`].*)?$", re.MULTILINE)
PUBLISHED = {
    "stable-diffusion-v1-5": StableDiffusionPipeline,
    "sd-v1-5-inpainting.ckpt": StableDiffusionInpaintPipeline,
    "stable-diffusion-2-depth": StableDiffusionDepth2ImgPipeline,
}
"""Names of checkpoints on the pages -> the pipelines that stand for them here."""

LORAS = ("style", "light")
"""Names of LoRA files on the pages, without their ending."""

INTERNAL = {"hydra", "local"}
"""Folders of configs/ from which nobody chooses on the command line."""


def commands(text):
    """Return the command lines that a page shows, without "python"; those cut in two lines are joined."""
    return [match["command"].strip() for match in COMMAND.finditer(text.replace("\\\n", " "))]


def lines(start):
    """Return all different commands of all pages that begin with a word and have options."""
    found = {line for text in PAGES.values() for line in commands(text) if line.startswith(start)}
    return sorted(line for line in found if len(shlex.split(line)) > 1 + line.startswith("-m"))


def option_cells(name):
    """Return the options in the tables "| To | say |" of a page: the first code of each right-hand cell."""
    tables = re.findall(r"^\| To \| say \|\n(?:\|.*\n)+", PAGES[name], re.MULTILINE)
    cells = [cell for table in tables for cell in re.findall(r"^\| [^|]+ \| `([^`]+)`", table, re.MULTILINE)]
    return sorted({cell for cell in cells if "=" in cell and not cell.startswith("python")})


def sections(text):
    """Return heading -> text below it, of all headings of a page."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def composed(*options):
    """Return the config of train.py that the options make, as it is composed and checked when a program begins."""
    config = check_options("train", read_command_line("train", list(options)))
    return resolved(OmegaConf.masked_copy(config, [name for name in config if name != "hydra"]))


def test_the_readme_is_short_and_names_its_commands():
    assert len(PAGES["README.md"].splitlines()) <= 120
    found = commands(PAGES["README.md"])
    assert "train.py experiment=txt2img" in found
    assert any(line.startswith("sample.py") for line in found)


def test_the_pages_name_many_commands():
    assert len(lines("train.py")) >= 15
    assert len(lines("sample.py")) >= 9
    assert len(option_cells("your-own-data.md")) >= 8
    assert len(option_cells("training.md")) >= 15


def test_links_of_the_readme_lead_somewhere():
    for text in (PAGES["README.md"], (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            assert (ROOT / path).exists(), target
            if anchor:
                headings = [
                    re.sub(r"[^\w\- ]", "", name).lower().replace(" ", "-") for name in sections(PAGES[path[5:]])
                ]
                assert anchor in headings, target


def test_benchmarks_that_are_named_exist():
    for text in PAGES.values():
        for module in re.findall(r"python -m (tests\.[\w.]+)", text):
            assert find_spec(module), module


def test_every_group_and_every_choice_is_on_the_page_about_options():
    found = sections(PAGES["options.md"])
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir() and path.name not in INTERNAL):
        assert folder.name in found, f"docs/options.md has no section {folder.name}"
        assert f"<!-- configs: {folder.name} -->" in found[folder.name]
        named = set(re.findall(r"`(\w+)`", found[folder.name]))
        choices = {path.stem for path in folder.glob("*.yaml")}
        assert choices <= named, f"docs/options.md, section {folder.name}, does not name {choices - named}"


def test_versions_agree():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.e2e
def test_the_guide_names_every_file_that_a_run_writes(tiny_run):
    names = re.findall(r"`([^`]+)`", sections(PAGES["guide.md"])["What a run writes"])
    written = [path for path in tiny_run.rglob("*") if path.is_file() and not path.name.startswith(".")]
    folders = [f"{name.rstrip('/')}/*" for name in names if name.endswith("/")]
    for file in written:
        path = file.relative_to(tiny_run)
        path = path.relative_to(path.parts[0]) if path.parts[0] in ("autoencoder", "diffusion") else path
        assert any(path.match(name) for name in [*names, *folders]), f"the guide does not name {path}"
    elsewhere = {NEXT_FILE, INIT_FILE, f"{Path(SNAPSHOTS).name}/", f"checkpoints/{BEST}", "logs/metrics-1.csv"}
    assert elsewhere <= set(names)


def test_the_default_guidance_is_said_as_it_is():
    scale = check_options("sample", read_command_line("sample", ["ckpt=x", "prompt=y"])).guidance.scale
    (said,) = re.findall(r"\| default guidance of txt2img \|[^|]*\| ([^|]*) \|", PAGES["authors-code.md"])
    assert said == f"{scale:g}"
    assert f"classifier-free guidance of scale {scale:g}, whatever" in PAGES["sampling.md"]


@pytest.mark.e2e
@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")
    arguments = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    options = (tmp_path / "options" / "index.html").read_text()
    assert "configs/sampler/ddim.yaml" in options
    assert "<!-- configs:" not in options
    assert "DDIM" in (tmp_path / "api" / "ldm.sampler" / "index.html").read_text()


@pytest.mark.e2e
@pytest.mark.parametrize("line", lines("train.py"))
def test_training_commands_compose(line):
    """Every training command composes as it stands; that such runs work is shown on tiny data in test_run."""
    options = [word for word in shlex.split(line)[1:] if word not in ("-m", "--help", "--cfg", "job")]
    if "--help" in line:
        forked("train.py", "--help")
        return
    if "-m" in shlex.split(line):
        assert all("=" in option for option in options)
        options = [re.sub(r"=(?:\w+\()?([^,]*),.*", r"=\1", option) for option in options]
    assert composed(*options)["paths"]["output_dir"]


@pytest.mark.e2e
@pytest.mark.parametrize("line", lines("-m ldm."))
def test_other_commands_compose(line):
    words = shlex.split(line)
    text = forked(*words) if "--help" in line else forked(*words, "--cfg", "job")
    assert text


@pytest.mark.e2e
@pytest.mark.parametrize("cell", option_cells("your-own-data.md"))
def test_options_of_the_data_page_compose_and_mean_something(cell):
    plain = ["experiment=txt2img_shards", "data.train=a", "data.val=b"]
    options = shlex.split(cell)
    given = {option.partition("=")[0] for option in options}
    kept = [option for option in plain if option.partition("=")[0] not in given]
    assert composed(*kept, *options) != composed(*plain)


@pytest.mark.e2e
@pytest.mark.parametrize("cell", option_cells("training.md"))
def test_options_of_the_training_page_compose_and_mean_something(cell):
    assert composed("experiment=txt2img", *shlex.split(cell)) != composed("experiment=txt2img")


@pytest.mark.e2e
@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if "```python\n" in text])
def test_python_code_runs(name, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL):
        exec(block.replace("runs/txt2img", str(tiny_run)), {})


@pytest.mark.e2e
@pytest.mark.parametrize("line", lines("sample.py"))
def test_sampling_commands_run(line, tiny_run, tmp_path):
    elsewhere = ("runs/classifier", "packages=", "_icons ")  # test_classifier_run, test_plugin, and e2e/
    composed_only = any(word in line for word in elsewhere)
    if "--help" in line or composed_only:
        assert forked(*shlex.split(line), *(() if "--help" in line else ("--cfg", "job")))
        return
    (tmp_path / "prompts.txt").write_text("a red heart on a white background\na blue cat on a black background\n")
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "samples" / "00000.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    mask.save(tmp_path / "mask.png")
    places = {
        **dict.fromkeys(("=runs/txt2img", "=runs/first"), f"={tiny_run}"),
        "=runs/finetune_decoder": f"={tiny_run / 'autoencoder.safetensors'}",
    }
    places |= {f"={name}": f"={tmp_path / name}" for name in ("prompts.txt", "samples", "mask.png", "depth.png")}
    if "ckpt=v1-5" in line:
        conditioner = checkpoints.clip(64, 2, vocabulary=64)
        shapes = checkpoints.whole(conditioner, context_width=64)
        save_file(checkpoints.tensors_of(shapes), tmp_path / "v1-5-pruned-emaonly.safetensors")
        checkpoints.write_yaml(tmp_path / "v1-5-pruned-emaonly.yaml")
        checkpoints.tokenizer(tmp_path / "tokenizer")
        places["=v1-5-pruned"] = f"={tmp_path}/v1-5-pruned"
    save_file({"emb_params": torch.ones(2, 64)}, tmp_path / "toy.safetensors")
    places["=toy.safetensors"] = f"={tmp_path}/toy.safetensors"
    for name in LORAS:
        layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        matrices = {"lora_down": torch.ones(2, 64), "lora_up": torch.ones(32, 2)}
        save_file(
            {f"{layer}.{part}.weight": matrix for part, matrix in matrices.items()}, tmp_path / f"{name}.safetensors"
        )
        places[f"{name}.safetensors"] = f"{tmp_path / name}.safetensors"
    if name := next((name for name in PUBLISHED if f"={name} " in line), None):
        pipelines.stable_diffusion(tmp_path, kind=PUBLISHED[name])
        mask.save(tmp_path / "depth.png")
        places[f"={name}"] = f"={tmp_path / 'pipeline'}"
    options = [option for option in shlex.split(line)[1:] if not option.startswith("out=")]
    for name, place in places.items():
        options = [option.replace(name, place) for option in options]
    if "init_prompt" not in line:  # what is inverted in few steps may not converge
        options.append("sampler.steps=3")
    text = forked("sample.py", *options, f"out={tmp_path / 'out'}")
    assert "grid.png" in text


@pytest.mark.e2e
def test_icons_can_be_written_alone(tmp_path):
    text = forked("-m", "ldm.cli.icons", f"folder={tmp_path}", "count=3", "size=16")
    assert "training and" in text
    assert list(tmp_path.glob("icons-*/train-000000.tar"))


@pytest.mark.e2e
def test_the_way_of_the_data_page(tmp_path, tiny_run, places):
    """Its commands in their order, on small images: pack, encode, train on latents."""
    from tests.data.small_shards import level

    (tmp_path / "photos").mkdir()
    rows = ["file,caption"]
    for number in range(150):
        (tmp_path / "photos" / f"{number}.png").write_bytes(level(number, size=(40, 32)))
        rows.append(f'{number}.png,"a gray, even square of level {number}"')
        (tmp_path / "photos" / f"{number}.txt").write_text(f"level {number}")
    (tmp_path / "photos" / "captions.csv").write_text("\n".join(rows))
    names = {
        "photos": f"{tmp_path}/photos",
        "shards/": f"{tmp_path}/shards/",
        "=shards": f"={tmp_path}/shards",
        "out=latents": f"out={tmp_path}/latents",
        "'latents": f"'{tmp_path}/latents",
    }

    def run(start, *more):
        (line, *_) = [line for line in commands(PAGES["your-own-data.md"]) if line.startswith(start) and "=" in line]
        line = line.replace("runs/autoencoder", f"{tiny_run}/autoencoder.safetensors")
        for name, place in names.items():
            line = line.replace(name, place)
        return forked(*shlex.split(line), *more)

    assert "150" in run("-m ldm.data.pack images=photos captions", "val_fraction=0.2")
    assert (tmp_path / "shards" / "val-000000.tar").is_file()
    assert "shards written: 1" in run("-m ldm.encode", "data.size=32", "data.workers=0", places[0])
    text = run(
        *("train.py experiment=txt2img_shards data=latents", "backbone=unet_icons", "conditioner=transformer_icons"),
        *("debug=tiny_diffusion", "trainer=cpu", "data.size=32", "data.workers=1", "name=page", *places),
    )
    assert "frechet_efficientnet" in text
    assert "finished" in text


@pytest.mark.e2e
def test_the_way_of_the_page_about_comparing(tmp_path, tiny_run):
    """Its commands in their order, on copies of a tiny run that say that they have other seeds."""
    places = {"runs/txt2img-sweep/seed=": f"{tmp_path}/sweep/seed=", "txt2img.csv": f"{tmp_path}/curve.csv"}
    places |= {"runs/txt2img": f"{tmp_path}/run", "runs/other": f"{tmp_path}/sweep/seed=2"}
    for folder, seed in [("run", 0), *((f"sweep/seed={number}", number) for number in (1, 2, 3))]:
        shutil.copytree(
            tiny_run, tmp_path / folder, ignore=shutil.ignore_patterns("checkpoints", "*.safetensors", ".lock")
        )
        file = tmp_path / folder / "config.yaml"
        file.write_text(re.sub(r"^seed: .*", f"seed: {seed}", file.read_text(), flags=re.MULTILINE))
    texts = []
    for line in commands(PAGES["compare.md"]):
        if line.startswith("-m ldm."):
            for name, place in places.items():
                line = line.replace(name, place)
            out = [f"out={tmp_path}/compare"] if "ldm.compare" in line else []
            texts.append(forked(*shlex.split(line), *out))
    assert len(texts) == 4
    assert f"{tmp_path}/run: {tmp_path}/run/report.html" in texts[0]
    assert "compare.md" in texts[1]
    assert (tmp_path / "curve.csv").read_text().startswith("# expected curve of txt2img\n# seed 1: ")
    assert re.search(r"run: agrees in all \d+ metrics, within the spread of 3 seeds", texts[3])


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["ldm.data.pack", "ldm.encode"])
def test_help_of_programs(name):
    text = forked("-m", name, "--help")
    assert f"python -m {name}" in text
    assert re.search(r"^ *out[:=]", text, re.MULTILINE)


@pytest.mark.e2e
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_without_outputs(path, tiny_run, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("LDM_RUN", str(tiny_run))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT}}).execute()
