"""Fixtures and functions that many tests share: few threads, tiny models, tiny data, commands in processes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two tests run side by side

import pytest
from filelock import FileLock

import ldm  # noqa: F401  before torch: it sets how threads wait

import torch  # isort: skip

from tests.configs import compose_once

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

ROOT = Path(__file__).resolve().parent.parent

LONGEST = (
    "test_run.py",
    "test_documents.py",
    "test_benchmarks.py",
    "test_resume.py",
    "test_config.py",
    "test_warm_start.py",
)
"""Files of the tests that take the longest, in the order of their seconds."""

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preload"])


def pytest_collection_finish() -> None:
    """Leave what the libraries have made out of garbage collection, which looks at all of it again and again."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long tests out unless they are asked for; put the longest files first, so that processes end together."""
    if "long" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def _each_config_is_composed_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ldm.config.hydra_compose", compose_once)
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of the Inception network."""
    from ldm.pretrained.inception_network import InceptionV3
    from tests.metric import torch_fidelity_numbers

    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(torch_fidelity_numbers.inception_weights(InceptionV3()), file)
    return file


@pytest.fixture(autouse=True)
def _memory_unlimited() -> Iterator[None]:
    """Programs that a test runs in its own process limit the memory of that; the next test has all again."""
    yield
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def scramble(module: torch.nn.Module) -> torch.nn.Module:
    """Give all weights random values, the zero-initialised ones too, of a size that keeps activations moderate."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module


def command(*arguments: str, cwd: Path = ROOT, ok: bool = True, seconds: int = 560) -> str:
    """Run a Python command line in the repository and return its output; assert that it succeeds or fails as `ok` says."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=seconds
    )
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, text[-8000:]
    return text


def train_whole(*options: str) -> None:
    """Run train.py until the end of a training that takes minutes on a quiet machine, and up to two hours elsewhere."""
    command("train.py", "trainer=cpu", *options, seconds=7200)


def forked(*arguments: str, ok: bool = True) -> str:
    """Run a command line as `command` does, in a fork of a process that has loaded the libraries and done nothing else.

    It is faster by seconds. Training in it works, also with processes that load data.
    """
    code, text = ended(*arguments)
    assert (code == 0) == ok, text[-8000:]
    return text


def forked_ranks(*arguments: str, ok: bool = True) -> str:
    """Run a command line in two forks, the ranks 0 and 1 of one training, as torchrun would start them.

    Returns:
        What both have printed, rank 0 first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    both |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}
    with ThreadPoolExecutor(2) as threads:
        ends = [
            threads.submit(ended, *arguments, environment={**both, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]
    found = [end.result() for end in ends]
    assert all((code == 0) == ok for code, _ in found), "\n".join(text[-8000:] for _, text in found)
    return "\n".join(text for _, text in found)


def ended(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command line in a fork until it ends.

    Args:
        arguments: A script, or -m and a module, and its arguments.
        environment: What is set in its environment beside what is set here.

    Returns:
        Its exit code, that of a signal negative, and what it has printed.
    """
    with tempfile.NamedTemporaryFile("w+") as output:
        child = FORKS.Process(target=_become, args=(arguments, output.name, {**os.environ, **(environment or {})}))
        child.start()
        child.join()
        return child.exitcode, output.read()


def _become(arguments: Sequence[str], output: str, environment: dict[str, str]) -> NoReturn:
    """Run a script, or a module after -m, as Python itself would, and end the process."""
    code: object = 1
    try:
        signal.alarm(500)
        os.environ.clear()
        os.environ.update(environment)
        file = os.open(output, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.chdir(ROOT)
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)  # as in a new process
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / arguments[0]), *arguments[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and finished tiny runs that several tests read."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def places(home: Path) -> list[str]:
    """Return the overrides that keep a command's files inside `home`."""
    return [f"paths.data_dir={home / 'data'}", f"paths.runs_dir={home / 'runs'}"]


@pytest.fixture(scope="session")
def whole_autoencoder(home: Path, places: list[str]) -> Path:
    """Return the folder of the autoencoder of the icons, trained in full."""
    train_whole("experiment=txt2img", "stage=[autoencoder_icons]", "name=whole", *places)
    return home / "runs" / "whole"


@pytest.fixture(scope="session")
def tiny_run(home: Path, places: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished tiny run of both stages, which all processes of the tests copy from one place."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    with FileLock(shared.with_suffix(".lock")):
        if not shared.with_suffix(".done").exists():
            folders = [f"paths.data_dir={shared / 'data'}", f"paths.runs_dir={shared / 'runs'}"]
            forked("train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", "name=tiny", *folders)
            shared.with_suffix(".done").touch()
    shutil.copytree(shared, home, dirs_exist_ok=True)
    return home / "runs" / "tiny"
