"""The validation loss of a checkpoint is that of its training, whoever measures it and however often it was broken off."""

import json
import shutil

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from ldm.config import build, compose
from ldm.data.datamodule import CaptionedImages
from ldm.evaluate.processes import Place
from ldm.evaluate.program import evaluate
from ldm.evaluate.validation_loss import SCORES, ValidationLoss
from tests.conftest import forked
from tests.data.small_shards import level, write_tar

pytestmark = pytest.mark.e2e


@pytest.fixture
def measured(tiny_run, tmp_path):
    def run(name, *options, ckpt=True):
        given = [f"ckpt={tiny_run}"] if ckpt else []
        places = ["device=cpu", f"data.cache={tmp_path / 'cache'}", f"out={tmp_path / name}"]
        return evaluate(compose("evaluate", ["protocol=validation_loss", *given, *places, *options]))

    return run


def test_it_is_that_of_training(tiny_run, tmp_path):
    config = OmegaConf.load(tiny_run / "config.yaml")
    written = json.loads((tiny_run / "diffusion" / "results.json").read_text())
    forked(
        "-m", "ldm.evaluate", "protocol=validation_loss", f"ckpt={tiny_run}", "device=cpu", f"out={tmp_path / 'out'}"
    )
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["scores"].keys() == set(SCORES)
    rounding = 1e-5 if config.trainer.precision == "32-true" else 2e-2
    for name, value in found["scores"].items():
        assert value == pytest.approx(written[f"val/{name}"], rel=rounding), name
    assert (found["broken"], found["size"]) == (0, [32, 32])
    assert "| loss_t0.125 |" in (tmp_path / "out" / "results.md").read_text()


def test_numbers_are_the_same_whoever_measures_and_however_often_it_was_broken_off(measured, monkeypatch):
    monkeypatch.setattr("ldm.evaluate.folder.PART", 4)
    whole = measured("whole", "batch_size=3")[0]
    assert whole["count"] > 8

    measure, calls = ValidationLoss.measure, []

    def counted(self, model, batch):
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.extend(batch.key)
        measure(self, model, batch)

    monkeypatch.setattr(ValidationLoss, "measure", counted)
    limit = 4
    with pytest.raises(KeyboardInterrupt):
        measured("broken", "batch_size=3")
    limit = -1
    assert measured("broken", "batch_size=3")[0]["scores"] == whole["scores"]
    assert len(calls) == len(set(calls)) == whole["count"], "nothing is measured twice"

    for rank in (1, 0):
        monkeypatch.setattr(Place, "here", staticmethod(lambda rank=rank: Place(rank, 2)))
        shared = measured("shared", "batch_size=3")[0]
        assert bool(shared["scores"]) == (rank == 0)
    assert shared["scores"] == whole["scores"]


def test_a_file_alone_and_checkpoints_of_a_run(tiny_run, measured, tmp_path):
    whole = measured("whole")[0]
    alone = shutil.copy(tiny_run / "model.safetensors", tmp_path / "alone.safetensors")
    val = f"data.val='{build(OmegaConf.load(tiny_run / 'config.yaml').data.source).write()}/val-*.tar'"
    assert measured("alone", f"ckpt={alone}", val, ckpt=False)[0]["scores"] == whole["scores"]
    few = measured("few", "num_images=4")[0]
    assert few["count"] == 4
    curve = measured("curve", f"ckpts='{tiny_run}/**/step-*.ckpt'", ckpt=False)
    assert curve[-1]["scores"]["loss"] == pytest.approx(whole["scores"]["loss"], rel=1e-5), "the last one is the model"
    assert (tmp_path / "curve" / "curve.png").is_file()


def test_another_model_in_the_same_folder_is_measured_anew(tiny_run, measured, tmp_path):
    first = measured("scores", f"ckpt={sorted(tiny_run.glob('diffusion/**/step-*.ckpt'))[0]}", ckpt=False)[0]
    second = measured("scores")[0]
    assert first["scores"] != second["scores"] == measured("whole")[0]["scores"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["guidance=classifier_free"], "guidance= has no meaning for the validation loss, for which no image is made"),
        (["metric=fid"], "metric= has no meaning for the validation loss"),
        (["conditions=none"], "is that of validation samples; leave conditions= out"),
        (["ckpts='runs/*'"], "give one of ckpt=RUN and ckpts="),
        (["num_images=0"], "num_images=0 cannot be"),
        (["data.size=33"], "image size 33 is not a multiple"),
        (["data.val=nowhere.tar"], "nowhere.tar"),
    ],
)
def test_mistakes_end_before_anything_is_written(measured, tmp_path, options, message):
    with pytest.raises((ValueError, InstantiationException), match=message):
        measured("new", *options)
    assert not (tmp_path / "new").exists()


def test_images_of_buckets_are_measured_at_their_sizes(tmp_path):
    """A sample of a wide image has the size of its bucket, as in training."""
    pictures = [level(60 * n, size=(64, 32) if n % 2 else (32, 32)) for n in range(4)]
    files = [(f"{n}.{ending}", data) for n in range(4) for ending, data in (("png", pictures[n]), ("txt", b"x"))]
    shard = write_tar(tmp_path / "a.tar", files)
    data = CaptionedImages(
        train=shard, val=shard, size=32, cache=tmp_path / "cache", buckets={"multiple": 8, "max_ratio": 2.0}
    )
    samples = data.open_validation()
    sizes = {samples.size_of(number) for number in range(4)}
    assert len(sizes) == 2
    for number in range(4):
        batch, _ = samples.exactly([number])
        assert tuple(batch.fields["image"].shape[1:3]) == tuple(samples.size_of(number))
