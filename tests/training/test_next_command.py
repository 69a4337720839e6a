"""The command that a run names at its end: it can be typed as it is."""

import shlex

import pytest

from ldm.checkpoint import find
from ldm.cli.command_line import read_words
from ldm.cli.mistakes import check_options
from tests.training.stages import composed, stages

pytestmark = pytest.mark.e2e

TUNING = ["experiment=finetune_decoder", "data=icons", "perceptual=none", "name=tuned"]
GUIDING = ["experiment=classifier", "name=guide"]
GUIDING_CLASSES = ["experiment=label_classifier", "name=guide"]


def next_words(options, given, tmp_path):
    """The words of the next command of the last stage of a run that was given an autoencoder."""
    config = composed(*options, f"autoencoder.ckpt={given}", f"paths.runs_dir={tmp_path}")
    *_, stage = stages(config, tmp_path / str(config.name)).values()
    python, program, *words = shlex.split(stage.next_command())
    assert python == "python"
    check_options(program.removesuffix(".py"), read_words(words))  # raises where one is no option
    return program, words


@pytest.mark.parametrize(
    "options", [TUNING, GUIDING, GUIDING_CLASSES], ids=["decoder", "classifier", "label_classifier"]
)
@pytest.mark.parametrize("as_file", [False, True], ids=["run", "file"])
def test_what_was_trained_for_a_model_is_used_with_that_model(tiny_run, tmp_path, options, as_file):
    given = find(tiny_run) if as_file else tiny_run
    program, words = next_words(options, given, tmp_path)
    assert program == "sample.py"
    assert f"ckpt={given}" in words
    own = {"decoder=" + str(tmp_path / "tuned"), "guidance.classifier.path=" + str(tmp_path / "guide")}
    assert len(own & set(words)) == 1, "what was trained"
    assert "prompt=a red heart on a white background" in words
    assert ("label=0" in words) == (options is GUIDING_CLASSES)


def test_a_decoder_of_no_model_is_trained_upon(tiny_run, tmp_path):
    program, words = next_words(TUNING, tiny_run / "autoencoder.safetensors", tmp_path)
    assert program == "train.py"
    assert words == ["experiment=txt2img", f"autoencoder.ckpt={tmp_path / 'tuned'}"]
