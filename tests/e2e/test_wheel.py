"""The wheel: what `pip install .` gives works in an empty folder, without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

LARGE = {"pytorch_lightning", "torch", "torchmetrics", "transformers", "webdataset"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made of, so that nothing is left in the checkout."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("ldm", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (file,) = folder.glob("ldm-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with what the wheel holds, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", folder, wheel)
    return folder


def pip(*arguments):
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", arguments[0], *options, *map(str, arguments[1:])], check=True)


def run(installed, folder, *words):
    """Run Python in a folder in which the package is found where it was installed, and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_the_wheel_holds_all_code_and_all_configs(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ldm/")}
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "ldm").rglob("*.py")}
    configs = {f"ldm/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "ldm" / "report" / "templates").glob("*.html")}
    curves = {str(path.relative_to(ROOT)) for path in (ROOT / "ldm" / "compare" / "curves").glob("*.csv")}
    assert names == {*code, *configs, *pages, *curves, "ldm/py.typed"}
    assert pages


def test_it_is_imported_without_the_large_libraries(installed, tmp_path):
    program = f"import sys, ldm; print(len({LARGE} & sys.modules.keys()), ldm.__file__, ldm.__version__)"
    loaded, file, version = run(installed, tmp_path, "-c", program).split()
    assert loaded == "0"
    assert file == str(installed / "ldm" / "__init__.py")
    assert (installed / f"ldm-{version}.dist-info").is_dir()


@pytest.mark.parametrize("name", ["train", "sample"])
def test_help_is_answered_without_the_large_libraries(installed, tmp_path, name):
    text = run(installed, tmp_path, installed / "bin" / f"ldm-{name}", "--help")
    assert f"  ldm-{name} " in text
    assert "Options (option=value)" in text
    program = f"""
import sys
from ldm.cli.{name} import main
sys.argv = ["ldm-{name}", "--help"]
try:
    main()
finally:
    print(sorted({LARGE} & sys.modules.keys()))
"""
    assert run(installed, tmp_path, "-c", program).splitlines()[-1] == "[]"


def test_a_model_is_trained_drawn_from_and_loaded_in_an_empty_folder(installed, tmp_path):
    text = run(installed, tmp_path, installed / "bin" / "ldm-train", "experiment=txt2img", "debug=tiny", "trainer=cpu")
    assert "finished" in text
    assert "next: ldm-sample ckpt=runs/tiny prompt=" in text
    assert (
        "ldm-train experiment=txt2img debug=tiny trainer=cpu"
        in (tmp_path / "runs" / "tiny" / "report.html").read_text()
    )
    assert "Scores of diffusion" in run(installed, tmp_path, "-m", "ldm.compare", "runs/tiny")
    options = ["ckpt=runs/tiny", "prompt=a red heart", "n=1", "sampler.steps=2"]
    assert "1 image in samples" in run(installed, tmp_path, installed / "bin" / "ldm-sample", *options)
    assert (tmp_path / "samples" / "00000.png").is_file()
    program = "from ldm import LatentDiffusion, load; print(isinstance(load('runs/tiny'), LatentDiffusion))"
    assert run(installed, tmp_path, "-c", program) == "True\n"
    assert "training and" in run(installed, tmp_path, "-m", "ldm.cli.icons", "count=2", "size=8", "folder=icons")
