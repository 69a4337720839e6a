"""What other programs' formats cannot hold: the message says what to choose instead, in the words of the options."""

import re

import pytest
from omegaconf import OmegaConf

from ldm.config import CONFIGS
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.reading import read_foreign
from tests.interop import pipelines


@pytest.fixture
def found(tmp_path):
    """Return a model that can be exported."""
    pipelines.stable_diffusion(tmp_path)
    return read_foreign(tmp_path / "pipeline")


@pytest.mark.parametrize("option", ["prediction", "schedule"])
def test_the_message_names_the_configs_that_can_be_exported_and_no_others(found, tmp_path, option):
    written, refused, named = set(), set(), set()
    for file in sorted((CONFIGS / option).glob("*.yaml")):
        node = OmegaConf.to_container(OmegaConf.load(file))
        if "defaults" in node:  # it changes another schedule
            continue
        choice = f"{option}={file.stem}"
        config = {**found.config, "denoiser": {**found.config["denoiser"], option: node}}
        try:
            export(config, found.weights, DiffusersFormat(), str(tmp_path / file.stem), name="mine")
            written.add(choice)
        except ValueError as error:
            got, _, known = str(error).partition(" has no place in this format, ")
            assert got == choice
            assert "train the model with one of these" in known
            assert "format=lora" in known
            refused.add(choice)
            named |= set(re.findall(rf"{option}=\w+", known)) - {"schedule=zero_terminal"}
            assert not (tmp_path / file.stem).exists()
    assert refused
    assert named == written
