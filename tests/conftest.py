"""What tests share: few threads, tiny models, tiny data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two tests run side by side

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of whole runs first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.path.name not in ("test_run.py", "test_resume.py", "test_documents.py"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def scramble(module: torch.nn.Module) -> torch.nn.Module:
    """Random numbers for all weights, the zero-initialised ones too, of a size that keeps activations moderate."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module


def command(*arguments: str, cwd: Path = ROOT, ok: bool = True) -> str:
    """Run a Python command line in the repository and return what it printed; its exit code must be as expected."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=560
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text[-8000:]
    return text


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and finished tiny runs that several tests read."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def places(home: Path) -> list[str]:
    """The overrides that keep a command's files inside `home`."""
    return [f"paths.data_dir={home / 'data'}", f"paths.runs_dir={home / 'runs'}"]


@pytest.fixture(scope="session")
def tiny_run(home: Path, places: list[str]) -> Path:
    """A finished tiny run of both stages."""
    command("train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", "name=tiny", *places)
    return home / "runs" / "tiny"
