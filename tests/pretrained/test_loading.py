"""Networks of Hugging Face are loaded in one way: never from files that can hold code, and with errors that say what to do."""

import re

import pytest

from ldm.pretrained.loading import WEIGHTS, loading
from tests.conftest import ROOT


@pytest.mark.parametrize("error", [OSError("no such file"), ValueError("not a config")])
def test_what_cannot_be_loaded_is_an_error_that_says_what_to_do(tmp_path, error):
    expected = rf"no depth network '{tmp_path}': .*\({error}\); set conditioner.name=FOLDER"
    advice = "set conditioner.name=FOLDER"
    with pytest.raises(FileNotFoundError, match=expected), loading("depth network", str(tmp_path), advice=advice):
        raise error


def test_a_mistake_of_the_program_is_not_hidden(tmp_path):
    with pytest.raises(TypeError), loading("depth network", str(tmp_path), advice=""):
        raise TypeError


def test_all_weights_are_loaded_from_safetensors():
    assert WEIGHTS["use_safetensors"] is True
    calls = [
        call
        for file in (ROOT / "ldm").rglob("*.py")
        for call in re.findall(r"(\S+)\.from_pretrained\(\s*([^()\"]*(?:\([^()]*\))?[^()\"]*)\)", file.read_text())
    ]
    networks = [(of, arguments) for of, arguments in calls if not re.search("Config|config_class|Tokenizer", of)]
    assert len(networks) == 4, networks
    assert all("**WEIGHTS" in arguments for _, arguments in networks)
