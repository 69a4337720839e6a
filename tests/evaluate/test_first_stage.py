"""Measuring a first stage: the scores of stage 1 itself, on folders as on shards, in any batches; mistakes and broken images."""

import json

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.identity import CopyAutoencoder
from ldm.checkpoint import save
from ldm.config import build, compose
from ldm.evaluate.first_stage import SHOWN
from ldm.evaluate.folder import PART
from ldm.evaluate.pairs import PairScores
from ldm.evaluate.processes import Place
from ldm.evaluate.program import evaluate
from ldm.files.picture import to_picture
from tests.conftest import forked, scramble
from tests.data.small_shards import encoded, level, write_tar

NETWORK = {"_target_": "ldm.autoencoder.convolutional.ConvAutoencoder", "channels": 8, "channel_mult": [1, 1], "blocks": 1,
           "latent_channels": 2, "groups": 4}  # fmt: skip
KL = {"_target_": "ldm.autoencoder.kl.KLRegularizer"}
VQ = {"_target_": "ldm.autoencoder.vq.VQRegularizer", "codes": 512, "latent_channels": 2}


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(7, 3, 4, 4, generator=generator) * 2 - 1
    return [to_picture(image) for image in torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")]


@pytest.fixture
def folder(tmp_path, pictures):
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def saved(tmp_path, config, *, statistics=0):
    network = scramble(build(config))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(6)  # so that different images come back different
    network.statistics_count.fill_(statistics)
    save(tmp_path / "autoencoder.safetensors", network, config)
    return tmp_path / "autoencoder.safetensors"


def evaluated(ckpt, tmp_path, *options):
    given = ["data.size=16", "device=cpu", f"data.cache={tmp_path / 'cache'}"]
    return evaluate(compose("evaluate", ["protocol=reconstruction", f"ckpt={ckpt}", *given, *options]))[0]


def measured(ckpt, tmp_path, *options):
    results = evaluated(ckpt, tmp_path, f"out={tmp_path / 'scores'}", *options)
    assert json.loads((tmp_path / "scores" / "results.json").read_text()) == results
    return results


@pytest.mark.parametrize(("regularizer", "own"), [(KL, {"kl"}), (VQ, {"quantization", "codebook_usage", "perplexity"})])
def test_scores_depend_on_the_images_alone(tmp_path, folder, pictures, regularizer, own):
    """Not on batches, nor on where the images lie; a checkpoint without latent statistics serves."""
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": regularizer})
    files = [
        (f"{n}.{e}", data)
        for n, picture in enumerate(pictures)
        for e, data in (("png", encoded(picture)), ("txt", b"x"))
    ]
    shard = write_tar(tmp_path / "val.tar", files)
    first = measured(ckpt, tmp_path, f"images={folder}", "batch_size=7")
    assert first["scores"].keys() == {"psnr", "ssim", "rfrechet_efficientnet", *own}
    assert (first["count"], first["broken"]) == (7, 0)
    for options in ([f"images={folder}", "batch_size=2"], [f"data.val={shard}"]):
        found = measured(ckpt, tmp_path, *options)
        assert found["scores"] == pytest.approx(first["scores"], rel=1e-3)
    fewer = measured(ckpt, tmp_path, f"images={folder}", "num_images=3")
    assert fewer["count"] == 3
    assert fewer["scores"]["psnr"] != first["scores"]["psnr"]


def test_what_comes_back_as_it_is_has_no_distance(tmp_path, folder):
    ckpt = saved(tmp_path, {"_target_": "ldm.autoencoder.identity.CopyAutoencoder"})
    scores = measured(ckpt, tmp_path, f"images={folder}")["scores"]
    assert scores["psnr"] is None, "JSON has no infinity"
    assert scores["ssim"] == pytest.approx(1)
    assert scores["rfrechet_efficientnet"] == pytest.approx(0, abs=1e-2)


def test_psnr_and_a_perceptual_distance_are_means_over_images():
    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return (a - b).abs().flatten(1).mean(1)

    whole, merged = (PairScores(CopyAutoencoder().regularizer, Difference()) for _ in range(2))
    first = 0
    for count in (1, 3):
        part = PairScores(whole.regularizer, Difference())
        images = torch.rand(count, 3, 16, 16) * 0.5
        for scores in (whole, part):
            scores.update(images, images - 0.2, CopyAutoencoder().encode(images), range(first, first + count))
        merged.merge(part.state())
        first += count
    found = whole.compute()
    assert found["lpips"] == pytest.approx(0.2, rel=1e-5)
    assert found["psnr"] == pytest.approx(20, abs=1e-3), "10 log10 of 2 squared by 0.2 squared"
    assert merged.compute() == found
    assert merged.numbers == [0, 1, 2, 3]


def test_the_size_is_that_of_the_run_and_a_picture_shows_pairs(tmp_path, folder):
    run = tmp_path / "run"
    run.mkdir()
    ckpt = saved(run, {**NETWORK, "regularizer": KL})
    (run / "config.yaml").write_text("data: {size: 16}")
    out = f"out={tmp_path / 'scores'}"
    found = evaluate(
        compose("evaluate", ["protocol=reconstruction", f"ckpt={ckpt}", f"images={folder}", "device=cpu", out])
    )[0]
    assert found["size"] == [16, 16]
    assert "7 images of 16 x 16 pixels" in (tmp_path / "scores" / "results.md").read_text()
    with Image.open(tmp_path / "scores" / "reconstructions.png") as picture:
        assert picture.size[0] > picture.size[1] > 16, "four pairs in a row"


def test_broken_images_of_a_folder_are_left_out_and_counted(tmp_path, folder):
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": KL})
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    found = measured(ckpt, tmp_path, f"images={folder}")
    assert (found["count"], found["broken"]) == (6, 1)


def test_checkpoints_of_first_stages_give_a_curve(tmp_path, folder, caplog):
    for step in (10, 20):
        saved(tmp_path, {**NETWORK, "regularizer": KL}).rename(tmp_path / f"step-{step}.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "step-30.safetensors")
    options = [
        "protocol=reconstruction",
        f"ckpts='{tmp_path}/step-*'",
        f"images={folder}",
        "data.size=16",
        "device=cpu",
    ]
    results = evaluate(compose("evaluate", [*options, f"out={tmp_path / 'curve'}"]))
    assert [result["count"] for result in results] == [7, 7]
    assert "left out: 1 that cannot be read" in caplog.text
    lines = (tmp_path / "curve" / "curve.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "10", "20"]
    for name in ("curve.csv", "curve.png"):
        ours = (tmp_path / "curve" / name).read_bytes()
        (tmp_path / "curve" / name).write_bytes(b"mine")
        with pytest.raises(ValueError, match=rf"holds what was not written by this program \({name}"):
            evaluate(compose("evaluate", [*options, f"out={tmp_path / 'curve'}"]))
        (tmp_path / "curve" / name).write_bytes(ours)


@pytest.mark.parametrize("name", ["results.json", "results.md", "reconstructions.png", "evaluation.json"])
def test_files_of_others_are_never_replaced(tmp_path, folder, name):
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": KL})
    measured(ckpt, tmp_path, f"images={folder}")
    mine = b'{"model": "resnet", "images": 5}'
    (tmp_path / "scores" / name).write_bytes(mine)
    with pytest.raises(ValueError, match=rf"holds what was not written by this program \({name}"):
        measured(ckpt, tmp_path, f"images={folder}")
    assert (tmp_path / "scores" / name).read_bytes() == mine


@pytest.mark.e2e
def test_scores_are_those_of_stage_1(tiny_run, tmp_path):
    config = OmegaConf.load(tiny_run / "config.yaml")
    written = json.loads((tiny_run / "autoencoder" / "results.json").read_text())
    val = f"{build(config.data.source).write()}/val-*.tar"
    forked("-m", "ldm.evaluate", "protocol=reconstruction", f"ckpt={tiny_run}", f"data.val={val}", "data.size=32", "device=cpu",
           f"out={tmp_path / 'scores'}", f"data.cache={tmp_path}")  # fmt: skip
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())["scores"]
    rounding = 1e-4 if config.trainer.precision == "32-true" else 2e-2
    for name in ("psnr", "ssim", "kl", "rfrechet_efficientnet"):
        assert scores[name] == pytest.approx(written[f"val/{name}"], rel=rounding)
    step = tiny_run / "autoencoder" / "checkpoints" / "step-00000020.ckpt"
    assert measured(step, tmp_path, f"data.val={val}", "data.size=32")["scores"]["psnr"] == pytest.approx(
        scores["psnr"]
    )


def test_broken_images_of_shards_are_left_out_and_counted(tmp_path):
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": KL})
    whole = [(f"{n}.{e}", d) for n in range(3) for e, d in (("png", level(80 * n, size=(16, 16))), ("txt", b"x"))]
    half = [("half.png", level(5, size=(64, 64))[:-30]), ("half.txt", b"x")]
    shard = write_tar(tmp_path / "a.tar", [*whole, *half])
    found = measured(ckpt, tmp_path, f"data.val={shard}")
    assert (found["count"], found["broken"]) == (3, 1)
    assert sum(found["scores"].values()) > 0


MISTAKES = [
    ([], "give the images to measure on, one of images=FOLDER and data.val=SHARDS"),
    (["images={folder}", "data.val=x.tar"], "one of images=FOLDER and data.val=SHARDS"),
    (["images={folder}/nowhere"], "no image at "),
    (["images={folder}", "data.size=15"], "image size 15 is not a multiple of 2"),
    (["images={folder}", "batch_size=0"], "batch_size=0 cannot be"),
    (["images={folder}", "num_images=1"], "frechet_efficientnet needs at least 2 images, but there are 1"),
    (["images={folder}", "perceptual=lpips", "perceptual.vgg16=nowhere.pth"], "no weights at nowhere.pth"),
    (["images={folder}", "size=64"], "size= has no meaning for a first stage"),
    (["images={folder}", "lora=x"], "lora= has no meaning for a first stage"),
    (["images={folder}", "reference={folder}"], "reference= has no meaning for a first stage"),
    (["images={folder}", "out={folder}/0.png"], "cannot be a folder"),
    (["images={folder}", "out={folder}"], "holds what was not written by this program"),
]


@pytest.mark.slow
def test_scores_are_the_same_whoever_measures_and_however_often_it_was_broken_off(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for number in range(2 * PART + 5):
        to_picture(torch.rand(3, 16, 16) * 2 - 1).save(tmp_path / "photos" / f"{number:03d}.png")
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": KL})
    options = [f"images={tmp_path / 'photos'}", "metric=[offline,precision_recall_offline]"]
    whole = measured(ckpt, tmp_path, *options)["scores"]
    assert {"rprecision_efficientnet", "rfrechet_efficientnet", "psnr", "kl"} <= whole.keys()

    encode, calls = ConvAutoencoder.encode, []

    def counted(self, images):
        if len(calls) == limit:
            raise KeyboardInterrupt
        calls.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(ConvAutoencoder, "encode", counted)
    limit = 2  # batches of 32: the first part
    with pytest.raises(KeyboardInterrupt):
        evaluated(ckpt, tmp_path, *options, f"out={tmp_path / 'broken'}")
    limit = -1
    calls.clear()
    found = evaluated(ckpt, tmp_path, *options, f"out={tmp_path / 'broken'}")
    assert sum(calls) == PART + 5 + SHOWN, "what was measured is not measured again; some are shown"
    assert found["scores"] == whole

    monkeypatch.setattr(ConvAutoencoder, "encode", encode)
    for rank in (1, 0):
        monkeypatch.setattr(Place, "here", staticmethod(lambda rank=rank: Place(rank, 2)))
        shared = evaluated(ckpt, tmp_path, *options, f"out={tmp_path / 'shared'}")
        assert bool(shared["scores"]) == (rank == 0)
    assert shared["scores"] == whole


def test_other_images_and_another_model_are_measured_anew(tmp_path, folder):
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": KL})
    first = measured(ckpt, tmp_path, f"images={folder}")["scores"]
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes())
    second = measured(ckpt, tmp_path, f"images={folder}")["scores"]
    assert second["psnr"] != first["psnr"]
    third = measured(saved(tmp_path, {**NETWORK, "regularizer": VQ}), tmp_path, f"images={folder}")["scores"]
    assert "perplexity" in third
    assert "kl" not in third
    with pytest.raises(
        ValueError, match="holds measurements of a first stage, and what is asked for are measurements of a"
    ):
        evaluate(compose("evaluate", [f"images={folder}", f"out={tmp_path / 'scores'}", "metric=offline"]))


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
def test_mistakes_end_before_anything_is_written(tmp_path, folder, options, message):
    ckpt = saved(tmp_path, {**NETWORK, "regularizer": KL})
    before = sorted(tmp_path.rglob("*"))
    out = [] if any(option.startswith("out=") for option in options) else [f"out={tmp_path / 'scores'}"]
    given = [option.replace("{folder}", str(folder)) for option in options]
    with pytest.raises((ValueError, FileNotFoundError, InstantiationException), match=message):
        evaluate(compose("evaluate", ["protocol=reconstruction", f"ckpt={ckpt}", "data.size=16", *out, *given]))
    assert sorted(tmp_path.rglob("*")) == before
