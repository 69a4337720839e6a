"""README commands and notebooks run."""

import re
import shlex

import nbclient
import nbformat
import pytest
from PIL import Image

from ldm.config import CONFIGS
from tests.conftest import ROOT, forked

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMAND = re.compile(r"python (?P<command>(?:train\.py|sample\.py|-m ldm\.)[^\n#`]*?)\s*(?:[#`].*)?$", re.MULTILINE)
README = (ROOT / "README.md").read_text()
DATA_PAGE = (ROOT / "ldm" / "data" / "README.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_without_outputs(path, tiny_run, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("LDM_RUN", str(tiny_run))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT}}).execute()


def readme_commands(page=README + DATA_PAGE):
    """Commands of README and data page, those cut in two lines joined."""
    return [match["command"].strip() for match in COMMAND.finditer(page.replace("\\\n", " "))]


def test_readme_names_its_commands():
    commands = readme_commands()
    assert "train.py experiment=txt2img" in commands
    assert any(line.startswith("sample.py") for line in commands)


@pytest.mark.parametrize("line", sorted({line for line in readme_commands() if line.startswith("train.py")}))
def test_readme_training_commands_compose(line, home):
    """Every training command composes as it stands; that such runs work is shown on tiny data in test_run."""
    options = [word for word in shlex.split(line)[1:] if word not in ("-m", "--help")]
    if "--help" in line:
        forked("train.py", "--help")
    elif "-m" in shlex.split(line):
        assert all("=" in option for option in options)
        forked("train.py", *[re.sub(r"=([^,]*),.*", r"=\1", option) for option in options], "--cfg", "job")
    else:
        assert "paths.output_dir" in forked("train.py", *options, "--cfg", "job")


def test_readme_python_runs(tiny_run, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block.replace("runs/txt2img", str(tiny_run)), {})


@pytest.mark.parametrize("line", sorted({line for line in readme_commands() if line.startswith("sample.py")}))
def test_readme_sampling_commands_run(line, tiny_run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red heart on a white background\na blue cat on a black background\n")
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "samples" / "00000.png")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    mask.save(tmp_path / "mask.png")
    places = {"=runs/txt2img": f"={tiny_run}", "=runs/finetune_decoder": f"={tiny_run / 'autoencoder.safetensors'}"}
    places |= {f"={name}": f"={tmp_path / name}" for name in ("prompts.txt", "samples", "mask.png")}
    options = [option for option in shlex.split(line)[1:] if not option.startswith("out=")]
    for name, place in places.items():
        options = [option.replace(name, place) for option in options]
    if "init_prompt" not in line:  # what is inverted in few steps may not converge
        options.append("sampler.steps=3")
    text = forked("sample.py", *options, f"out={tmp_path / 'out'}")
    assert "grid.png" in text


@pytest.mark.parametrize(
    "group",
    [
        *("sampler", "grid", "guidance", "prediction", "schedule", "times", "weighting", "distance", "optimizer"),
        "alignment",
    ],
)
def test_the_readme_names_every_choice(group):
    missing = [path.stem for path in (CONFIGS / group).glob("*.yaml") if not re.search(rf"\b{path.stem}\b", README)]
    assert not missing


def test_icons_can_be_written_alone(tmp_path):
    text = forked("-m", "ldm.data.icons", f"folder={tmp_path}", "count=3", "side=16")
    assert "training and" in text
    assert list(tmp_path.glob("icons-*/train-000000.tar"))


def option_cells():
    """Options of the data page's table: what stands between the first backticks of a right-hand cell."""
    cells = re.findall(r"^\| [^|]+ \| `(['\"]?data[^`]+)`", DATA_PAGE, re.MULTILINE)
    return sorted(set(cells) | set(re.findall(r"`(data\.train='[^`]+)`", DATA_PAGE)))


def test_the_data_page_names_its_options():
    assert len(option_cells()) >= 9


@pytest.mark.parametrize("cell", option_cells())
def test_options_of_the_data_page_compose_and_mean_something(cell):
    from ldm.config import check_options, compose, quote_texts, resolved

    options = shlex.split(cell)
    given = {option.partition("=")[0] for option in options}
    places = [option for option in ("data.train=a", "data.val=b") if option.partition("=")[0] not in given]
    check_options("train", ["experiment=txt2img_shards", *options, *places])
    config = resolved(compose("train", ["experiment=txt2img_shards", *quote_texts([*options, *places])]))
    plain = resolved(compose("train", ["experiment=txt2img_shards", "data.train=a", "data.val=b"]))
    assert config["data"] != plain["data"]


def test_the_way_of_the_data_page(tmp_path, tiny_run, places):
    """Its commands in their order, on small images: pack, encode, train on latents."""
    from tests.data.shards import level

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
        (line, *_) = [line for line in readme_commands(DATA_PAGE) if line.startswith(start) and "=" in line]
        line = line.replace("runs/autoencoder", f"{tiny_run}/autoencoder.safetensors")
        for name, place in names.items():
            line = line.replace(name, place)
        return forked(*shlex.split(line), *more)

    assert "150" in run("-m ldm.data.pack images=photos captions", "val_share=0.2")
    assert (tmp_path / "shards" / "val-000000.tar").is_file()
    assert "shards written: 1" in run("-m ldm.data.encode", "data.side=32", "data.workers=0", places[0])
    text = run(
        *("train.py experiment=txt2img_shards data=latents", "backbone=unet_icons", "conditioner=transformer_icons"),
        *("debug=tiny_diffusion", "trainer=cpu", "data.side=32", "data.workers=1", "name=page", *places),
    )
    assert "frechet_efficientnet" in text
    assert "finished" in text


@pytest.mark.parametrize("name", ["pack", "encode"])
def test_help_of_programs(name):
    text = forked("-m", f"ldm.data.{name}", "--help")
    assert f"python -m ldm.data.{name}" in text
    assert "out:" in text
