"""A tiny run gives the numbers that were recorded before the code was rebuilt: the same bits on the same machine."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.conftest import forked
from tests.e2e.same_numbers import losses, machine, pixels

RECORDS = Path(__file__).parent / "recorded"


@pytest.mark.e2e
def test_losses_and_pixels_are_those_of_the_record(tiny_run, tmp_path):
    precision = OmegaConf.load(tiny_run / "config.yaml").trainer.precision
    record = json.loads((RECORDS / f"{precision}.json").read_text())
    prompt = "prompt=a red heart on a white background"
    forked("sample.py", f"ckpt={tiny_run}", prompt, "n=3", "device=cpu", f"out={tmp_path / 'samples'}")
    found, images = losses(tiny_run), pixels(tmp_path / "samples")
    later = record["rounded"]  # what is measured since then, recorded on another machine
    assert found.keys() == record["losses"].keys() | later.keys()
    for name, value in later.items():
        assert found.pop(name) == pytest.approx(value, rel=0.1), name
    assert images.keys() == record["pixels"].keys()
    if machine() == record["machine"]:
        assert found == record["losses"]
        assert images == record["pixels"]
        return
    rounding = 2e-3 if precision == "32-true" else 0.1  # another machine adds in another order
    for name, value in record["losses"].items():
        assert found[name] == pytest.approx(value, rel=rounding, abs=0.02), name
    for name, (_, *statistics) in record["pixels"].items():
        assert images[name][1:] == pytest.approx(statistics, rel=rounding, abs=1.0), name
