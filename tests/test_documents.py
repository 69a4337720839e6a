"""README commands and notebooks run."""

import re

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT, command

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMAND = re.compile(r"python (?P<command>(?:train\.py|sample\.py|-m ldm\.)[^\n#`]*?)\s*(?:[#`].*)?$", re.MULTILINE)
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_without_outputs(path, tiny_run, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    monkeypatch.setenv("LDM_RUN", str(tiny_run))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": ROOT}}).execute()


def readme_commands():
    """Commands of the README, those cut in two lines joined."""
    return [match["command"].strip() for match in COMMAND.finditer(README.replace("\\\n", " "))]


def test_readme_names_its_commands():
    commands = readme_commands()
    assert "train.py experiment=txt2img" in commands
    assert any(line.startswith("sample.py") for line in commands)


@pytest.mark.parametrize("line", sorted({line for line in readme_commands() if line.startswith("train.py")}))
def test_readme_training_commands_compose(line, home):
    """Every training command composes as it stands; that such runs work is shown on tiny data in test_run."""
    import shlex

    options = [word for word in shlex.split(line)[1:] if word not in ("-m", "--help")]
    if "--help" in line:
        command("train.py", "--help")
    elif "-m" in shlex.split(line):
        assert all("=" in option for option in options)
        command("train.py", *[re.sub(r"=([^,]*),.*", r"=\1", option) for option in options], "--cfg", "job")
    else:
        assert "run_dir" in command("train.py", *options, "--cfg", "job")


def test_readme_python_runs(tiny_run, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(block.replace("runs/txt2img", str(tiny_run)), {})


@pytest.mark.parametrize("line", sorted({line for line in readme_commands() if line.startswith("sample.py")}))
def test_readme_sampling_commands_run(line, tiny_run, tmp_path):
    import shlex

    (tmp_path / "prompts.txt").write_text("a red heart on a white background\na blue cat on a black background\n")
    options = [word.replace("runs/txt2img", str(tiny_run)) for word in shlex.split(line)[1:]]
    options = [option.replace("prompts=prompts.txt", f"prompts={tmp_path / 'prompts.txt'}") for option in options]
    options = [option for option in options if not option.startswith("out=")]
    text = command("sample.py", *options, f"out={tmp_path / 'out'}", "sampler.steps=3")
    assert "grid.png" in text


def test_icons_can_be_written_alone(tmp_path):
    text = command("-m", "ldm.data.icons", f"folder={tmp_path}", "count=3", "side=16")
    assert "training and" in text
    assert list(tmp_path.glob("icons-*/train-000000.tar"))
