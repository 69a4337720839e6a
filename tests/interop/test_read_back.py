"""Exported models that are not read back: the message says what they are, and what to give in their place."""

import pytest

from ldm import checkpoint
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.reading import is_foreign, read_foreign
from tests.interop.test_compvis_checkpoint import written


@pytest.mark.parametrize("kind", ["label", "bert"])
def test_a_set_of_components_names_what_was_exported(tmp_path, kind, capsys):
    """By the reader and by what `sample.py` finds; the exporter has said so before."""
    file, _, request = written(tmp_path, kind)
    found = read_foreign(file, request)
    out = tmp_path / "out"
    export(found.config, found.weights, DiffusersFormat(), str(out), name="runs/mine")
    assert "Keep runs/mine: sample.py reads whole pipelines" in capsys.readouterr().out
    message = r"has components \(.*unet, vqvae\), but no model_index.json.* give the run or the file that was exported"
    with pytest.raises(ValueError, match=message):
        read_foreign(out)
    with pytest.raises(ValueError, match=message):
        checkpoint.read(checkpoint.find(out, (checkpoint.MODEL_FILE,)))
    assert checkpoint.read(out / "unet")[0]["_target_"] == "ldm.backbone.unet.UNet"


def test_a_folder_of_other_things_is_none_of_theirs(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_text("")
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "absent")
