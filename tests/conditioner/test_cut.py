"""Texts that are longer than the conditioner takes: what is cut away is said, by `sample.py` and before training."""

import pytest

from ldm.config import build
from tests.conftest import forked
from tests.training.stages import built, composed

pytestmark = pytest.mark.e2e


def test_sampling_says_once_what_is_cut_away_from_a_prompt(tiny_run, tmp_path):
    longer = "a red heart on a white background and many other things beside it"
    options = [f"ckpt={tiny_run}", "sampler.steps=2", "device=cpu", "batch_size=1"]
    text = forked("sample.py", *options, f"out={tmp_path / 'a'}", f"prompt={longer}", "n=2")
    assert text.count("is longer than the model takes; cut away is '") == 1
    text = forked("sample.py", *options, f"out={tmp_path / 'b'}", "prompt=a red heart", "n=1")
    assert "longer than the model" not in text


def test_a_new_run_says_once_how_many_captions_are_cut(tiny_run, places, tmp_path, caplog):
    options = ["experiment=txt2img", "debug=tiny", "trainer=cpu", f"autoencoder.ckpt={tiny_run}", *places]
    for tokens, count in ((6, 1), (12, 0)):
        config = composed(*options, f"conditioner.max_tokens={tokens}")
        caplog.clear()
        built("diffusion", config, tmp_path).prepare(build(config.data))
        assert sum("captions looked at are longer than" in message for message in caplog.messages) == count
    (tmp_path / "diffusion").mkdir()
    config = composed(*options, "conditioner.max_tokens=6")
    caplog.clear()
    built("diffusion", config, tmp_path).prepare(build(config.data))
    assert not caplog.messages, "a run that goes on has said it"
