"""What `import ldm` gives."""

import re
import subprocess
import sys

import pytest

import ldm
from tests.conftest import ROOT


def test_load_and_the_model_are_imported_when_they_are_asked_for():
    program = (
        "import sys, ldm; print('torch' in sys.modules); from ldm import load, LatentDiffusion; print(load.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\nldm.checkpoint\n"
    assert ldm.LatentDiffusion.__module__ == "ldm.model"
    assert re.fullmatch(r"\d+\.\d+\.\d+", ldm.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ldm.nothing
