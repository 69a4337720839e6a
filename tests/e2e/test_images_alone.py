"""Whole runs on shards of images without captions: stage 1, an unconditional model, and one that needs captions."""

import json

import pytest
from PIL import Image

from ldm.files.picture import to_tensor
from tests.conftest import forked
from tests.data.small_shards import encoded, write_tar

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of shards whose samples are images alone."""
    folder = tmp_path_factory.mktemp("bare")
    for split, count in (("train", 40), ("val", 12)):
        pictures = (Image.new("RGB", (40, 36), (5 * number, 99, 255 - 4 * number)) for number in range(count))
        write_tar(folder / f"{split}.tar", [(f"{n:03d}.png", encoded(picture)) for n, picture in enumerate(pictures)])
    return folder


@pytest.fixture(scope="module")
def options(folder):
    shards = [f"data.{split}={folder}/{split}.tar" for split in ("train", "val")]
    return [
        *shards,
        f"paths.data_dir={folder}/data",
        f"paths.runs_dir={folder}/runs",
        "debug=tiny",
        "trainer=cpu",
        "data.workers=0",
    ]


@pytest.fixture(scope="module")
def first_stage(folder, options):
    """The folder of a finished first stage."""
    forked("train.py", "experiment=autoencoder", "name=first", *options)
    return folder / "runs" / "first"


def results(run, stage):
    return json.loads((run / stage / "results.json").read_text())


def test_stage_1_and_an_unconditional_model_train_are_measured_and_sample(folder, options, first_stage):
    assert results(first_stage, "autoencoder")["val/psnr"] > 0
    forked("train.py", "experiment=lsun_churches256", "name=unconditional", f"autoencoder.ckpt={first_stage}", *options)
    found = results(folder / "runs" / "unconditional", "diffusion")
    assert found["steps"] == 20
    assert found["eval/frechet_efficientnet"] > 0
    assert found["val/loss"] > 0
    forked("sample.py", f"ckpt={folder}/runs/unconditional", "n=2", "sampler.steps=2", f"out={folder}/images")
    assert to_tensor(Image.open(folder / "images" / "00001.png")).shape == (3, 32, 32)


def test_inpainting_of_a_stream_trains_with_masks_that_are_drawn(folder, options, first_stage):
    forked(
        *("train.py", "experiment=inpainting_big", "autoencoder=kl_f8", "data=stream", "data.buffer=10"),
        *("name=inpainting", f"autoencoder.ckpt={first_stage}", *options),
    )
    assert results(folder / "runs" / "inpainting", "diffusion")["steps"] == 20


def test_a_model_that_needs_captions_says_so_before_anything_is_written(folder, options):
    text = forked(
        "train.py", "experiment=txt2img_shards", "conditioner=transformer", "name=captions", *options, ok=False
    )
    assert "no caption; give shards that hold images with captions, or with labels" in text
    assert "images alone are enough for experiment=autoencoder" in text
    assert not (folder / "runs" / "captions").exists()


def test_packed_images_without_captions_are_refused_alike(folder, options, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 36), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    packed = ["captions=none", "val_fraction=0.5", "workers=1"]
    text = forked("-m", "ldm.data.pack", f"images={tmp_path}/images", f"out={tmp_path}/shards", *packed)
    assert "next: python train.py experiment=lsun_churches256 data.train=" in text
    shards = [f"data.{split}={tmp_path}/shards/{split}-*.tar" for split in ("train", "val")]
    text = forked(
        "train.py",
        "experiment=txt2img_shards",
        "conditioner=transformer",
        "name=packed",
        *options[2:],
        *shards,
        ok=False,
    )
    assert "samples looked at have no caption" in text
    assert not (folder / "runs" / "packed").exists()
