"""Memory that is short: an allocation fails, and the program says what to do."""

import subprocess
import sys

import pytest
import torch

from ldm.processes.memory import short_memory
from tests.conftest import ROOT


def test_what_torch_numpy_and_pillow_say_is_known():
    on_cpu = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        "3221225472 bytes. Error code 12 (Cannot allocate memory)"
    )
    assert short_memory(on_cpu).startswith("3.00 GiB more were asked for, and this machine has ")
    for error in (MemoryError(), OSError("out of memory")):
        assert short_memory(error).startswith("more was asked for, and this machine has ")
    on_gpu = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB. If reserved but unallocated "
        "memory is large try setting PYTORCH_ALLOC_CONF"
    )
    assert (
        short_memory(on_gpu)
        == "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB."
    )
    for error in (RuntimeError("shapes differ"), ValueError("out of memory"), OSError("no such file")):
        assert short_memory(error) is None


def python(text):
    """Run a program with less memory than it has by itself, and return what it says."""
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a limit of data")
@pytest.mark.parametrize(("device", "fails"), [("cuda", False), ("cpu", True)])
def test_what_is_too_much_together_fails_where_a_program_computes_on_a_cpu(device, fails):
    """The system gives half of its memory again and again, as long as nobody writes to it."""
    code, text = python(
        "import psutil, torch\n"
        "from ldm.processes.memory import limit_memory\n"
        f"limit_memory(torch.device('{device}'))\n"
        "half = (psutil.virtual_memory().total + psutil.swap_memory().total) // 8\n"
        "kept = [torch.empty(2**20)]\n"
        "print('so far, so good', flush=True)\n"
        "kept += [torch.empty(half) for _ in range(3)]\n"
    )
    assert "so far, so good" in text
    assert (code == 1) == fails == ("can't allocate memory" in text)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a limit of data")
def test_a_program_says_what_to_do(tmp_path):
    code, text = python(
        "import sys\n"
        "from ldm.cli import entry\n"
        f"sys.argv = ['train.py', 'experiment=txt2img', 'paths.runs_dir={tmp_path}']\n"
        "def run(config):\n"
        "    import psutil, torch\n"
        "    from ldm.processes.memory import limit_memory\n"
        "    limit_memory(torch.device('cpu'))\n"
        "    torch.empty(psutil.virtual_memory().total + psutil.swap_memory().total)\n"
        "entry.program('train', run)\n"
    )
    assert code == 1
    assert text.startswith("error: memory is short: ")
    assert "trainer.accumulate_grad_batches=2" in text
    assert "Traceback" not in text
