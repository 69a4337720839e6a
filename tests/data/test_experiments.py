"""The experiment that a next command names is one of a model conditioned on what the samples have."""

import json
import shlex

import pytest
import torch

from ldm.autoencoder.derived import underlying_fields
from ldm.config import build, compose, resolved
from ldm.data.experiments import FEW, FITTING, IMAGES_ALONE
from ldm.data.fitting import fitting_experiment
from ldm.data.shards.names import write_shards
from tests.cases import mostly_slow
from tests.configs import composed
from tests.data.packing import encoded, images, pack
from tests.data.small_shards import captioned, level, sample
from tests.training.stages import stages

BOX = json.dumps({"boxes": [{"label": 3, "box": [0.1, 0.2, 0.5, 0.9]}]}).encode()


def pattern(folder, several):
    """Write a shard with the samples of some files beside images, and return its name."""
    samples = [sample(f"{number:03d}", **files) for number, files in enumerate(several)]
    write_shards(samples, folder, "both", samples_per_shard=100)
    return f"{folder}/both*.tar"


@pytest.mark.parametrize(
    ("several", "experiment"),
    [
        ([{"txt": b"a cat", "cls": b"3"}] * 4, "txt2img_shards"),
        ([{"json": b'{"caption": "a cat"}'}] * 3 + [{}], "txt2img_shards"),
        ([{"cls": b"3"}] * 4, "cin256"),
        ([{"json": b'{"label": 5}', "seg.png": level(2)}] * 4, "cin256"),
        ([{"json": BOX}] * 4, "layout2img_openimages"),
        ([{"seg.png": level(2)}] * 4, "semantic_synthesis256"),
        ([{}] * 4, "lsun_churches256"),
        ([{"txt": b"a cat"}] + [{}] * 3, "lsun_churches256"),
        ([{"txt": b"", "json": b'{"width": 3}'}] * 4, "lsun_churches256"),
    ],
)
def test_what_most_samples_have_says_the_experiment(tmp_path, several, experiment):
    shards = pattern(tmp_path, several)
    data = captioned(tmp_path, train=shards, val=shards, fields=[])
    assert fitting_experiment(data) == experiment
    config = composed("train", "experiment=autoencoder", f"data.train={shards}", f"data.val={shards}", "data.size=8")
    (stage,) = stages(config, tmp_path / "run").values()
    assert f"experiment={IMAGES_ALONE} " in stage.next_command(), "nobody has looked"
    stage.prepare(data)
    stage.remember()
    (again,) = stages(config, tmp_path / "run").values()
    assert f"experiment={experiment} " in again.next_command(), "also in a process that opens no data"


@pytest.mark.parametrize(
    ("several", "experiment"),
    [
        ([{"cls": b"3"}] * 4, "cin256"),
        ([{"json": b'{"label": 5}', "seg.png": encoded(mode="L")}] * 4, "cin256"),
        ([{"json": BOX}] * 4, "layout2img_openimages"),
        ([{"seg.png": encoded(mode="L")}] * 4, "semantic_synthesis256"),
        ([{"depth.png": encoded(mode="L")}] * 4, IMAGES_ALONE),
        ([{"txt": b"a cat", "cls": b"3"}] * 4, "txt2img_shards"),
        ([{"txt": b"a cat", "cls": b"3"}] + [{"cls": b"3"}] * 3, "cin256"),
        ([{"txt": b"a cat"}] * 2 + [{"cls": b"3"}] * 2, IMAGES_ALONE),
    ],
)
def test_packing_names_the_experiment_that_the_data_name(tmp_path, several, experiment):
    for number, files in enumerate(several):
        for ending, data in {"png": encoded(color=(number, 0, 0)), **files}.items():
            images(tmp_path / "images", 0).joinpath(f"{number}.{ending}").write_bytes(data)
    command = pack(tmp_path / "out", images=tmp_path / "images").next_command()
    shards = f"{tmp_path}/out/train-*.tar"
    assert f" experiment={experiment} " in command
    assert fitting_experiment(captioned(tmp_path, train=shards, val=shards, fields=[])) == experiment


@pytest.mark.parametrize("field", mostly_slow([*FITTING, None], ["label", None]))
def test_the_experiments_are_conditioned_on_that_field_alone(field):
    experiment = IMAGES_ALONE if field is None else FITTING[field]
    options = ["data.train=a", "data.val=b", "data.size=256", "data.flip=false", "autoencoder.ckpt=c", "name=x"]
    config = resolved(compose("train", [f"experiment={experiment}", "data=latents", *options]))
    with torch.device("meta"):
        conditioner = build(config["conditioner"])
    reads = {*underlying_fields(conditioner.inputs)} - {"geometry"}
    assert reads == ({field} if field is not None else set())


@pytest.mark.parametrize(
    ("files", "options", "field"),
    [
        ({"txt": b"a cat"}, {}, "caption"),
        ({"json": BOX}, {}, "boxes"),
        ({}, {"captions": "none"}, None),
        ({}, {"labels": "folders"}, "label"),
    ],
)
def test_of_few_images_packing_names_a_small_model_with_the_same_condition(tmp_path, files, options, field):
    for number in range(4):
        for ending, data in {"png": encoded(color=(number, 0, 0)), **files}.items():
            images(tmp_path / "images" / f"class {number % 2}", 0).joinpath(f"{number}.{ending}").write_bytes(data)
    summary = pack(tmp_path / "out", images=tmp_path / "images", **options)
    assert f"a small model: {summary.small_command()}\nnext: " in summary.table()
    _, script, *words = shlex.split(summary.small_command())
    assert script == "train.py"
    config = resolved(compose("train", words))
    with torch.device("meta"):
        conditioner, backbone = build(config["conditioner"]), build(config["backbone"])
    assert {*underlying_fields(conditioner.inputs)} - {"geometry"} == ({field} if field is not None else set())
    assert sum(part.numel() for part in backbone.parameters()) < 5e6
    assert config["perceptual"] is None, "nothing is downloaded"
    if field == "label":
        assert conditioner.num_classes == 2
    summary.splits["train"].samples = FEW
    assert summary.small_command() is None
    assert "small model" not in summary.table()


@pytest.mark.parametrize("files", [{"seg.png": encoded(mode="L")}, {"cls": b"3"}], ids=["maps", "labels"])
def test_the_small_model_has_the_number_of_classes_left_open_where_it_is_not_known(tmp_path, files):
    for number in range(4):
        for ending, data in {"png": encoded(color=(number, 0, 0)), **files}.items():
            images(tmp_path / "images", 0).joinpath(f"{number}.{ending}").write_bytes(data)
    _, _, *words = shlex.split(pack(tmp_path / "out", images=tmp_path / "images").small_command())
    assert "conditioner.num_classes=..." in words
    config = compose("train", [word.replace("=...", "=7") for word in words])
    assert build(resolved(config)["conditioner"]).num_classes == 7
