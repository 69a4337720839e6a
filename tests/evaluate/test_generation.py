"""Measuring generated images: image i depends on i alone, and scores not on who measured, or how often it was broken off."""

import json
import shutil

import pytest
from omegaconf import OmegaConf

from ldm.config import build, compose
from ldm.evaluate.folder import PART
from ldm.evaluate.processes import Place
from ldm.evaluate.program import evaluate
from ldm.evaluate.protocol import Protocol
from tests.conftest import ROOT

FEW = PART + 6
"""Images of two parts, the second of which is not full."""

OFFLINE = (
    "{_target_:ldm.metric.frechet.Frechet,extractor:{_target_:ldm.pretrained.efficientnet.EfficientNetLite0,size:64}}"
)
"""A metric that needs no download, as an option."""

PROTOCOLS = sorted(file.stem for file in (ROOT / "configs" / "protocol").glob("*.yaml"))


@pytest.fixture
def scored(tiny_run, places, tmp_path):
    """Measure the tiny run, or what options say, into a folder of some name."""

    def run(name, *options, ckpt=True):
        given = [f"ckpt={tiny_run}"] if ckpt else []
        out = [f"out={tmp_path / name}", "device=cpu", "batch_size=16", *places[:1]]
        return evaluate(compose("evaluate", [*given, *out, *options]))

    return run


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in (folder / "images").iterdir()}


@pytest.mark.e2e
def test_scores_are_those_of_the_end_of_training(tiny_run, scored):
    written = json.loads((tiny_run / "diffusion" / "results.json").read_text())
    count = OmegaConf.load(tiny_run / "config.yaml").stage.diffusion.callbacks.evaluation.final_images
    found = scored("same", f"num_images={count}")[0]["scores"]
    assert found.keys() == {name.removeprefix("eval/") for name in written if name.startswith("eval/")}
    for name, value in found.items():
        assert value == pytest.approx(written[f"eval/{name}"], rel=1e-2, abs=0.13), (
            "sampled in bf16 where the machine has it"
        )


@pytest.mark.e2e
def test_numbers_are_the_same_whoever_makes_the_images_and_however_often_it_was_broken_off(
    scored, tmp_path, monkeypatch
):
    whole = scored("whole", f"num_images={FEW}")[0]
    images = files_of(tmp_path / "whole")
    assert len(images) == FEW

    fewer = scored("grown", "num_images=20")[0]
    kept = files_of(tmp_path / "grown")
    assert fewer["count"] == 20
    assert kept == {name: images[name] for name in kept}, "image i does not depend on the number of images"
    (tmp_path / "grown" / "images" / "000003.png").unlink()
    next((tmp_path / "grown" / "parts").rglob("*.safetensors")).write_bytes(b"cut off")
    grown = scored("grown", f"num_images={FEW}")[0]
    assert files_of(tmp_path / "grown") == images
    assert grown["scores"] == whole["scores"]

    for rank in (1, 0):
        monkeypatch.setattr(Place, "here", staticmethod(lambda rank=rank: Place(rank, 2)))
        shared = scored("shared", f"num_images={FEW}")[0]
        assert bool(shared["scores"]) == (rank == 0)
    assert files_of(tmp_path / "shared") == images
    assert shared["scores"] == whole["scores"]


@pytest.mark.e2e
def test_images_of_a_folder_and_metrics_that_come_later_use_what_is_there(tiny_run, scored, tmp_path):
    whole = scored("whole", "num_images=20")[0]["scores"]
    time = (tmp_path / "whole" / "images" / "000000.png").stat().st_mtime_ns
    more = scored("whole", "num_images=20", "metric=[offline,precision_recall_offline]")[0]["scores"]
    assert list(more) == [*whole, "precision_efficientnet", "recall_efficientnet"], "earlier scores stay"
    assert more["frechet_efficientnet"] == pytest.approx(whole["frechet_efficientnet"], rel=1e-6), (
        "real images are read anew"
    )
    assert (tmp_path / "whole" / "images" / "000000.png").stat().st_mtime_ns == time
    val = f"{build(OmegaConf.load(tiny_run / 'config.yaml').data.source).write()}/val-*.tar"
    photos = shutil.copytree(tmp_path / "whole" / "images", tmp_path / "photos")
    options = [f"images={photos}", f"reference={val}", "metric=offline"]
    found = scored("folder", *options, ckpt=False)[0]
    assert found["scores"]["frechet_efficientnet"] == pytest.approx(whole["frechet_efficientnet"], rel=1e-6)
    assert "| frechet_efficientnet |" in (tmp_path / "folder" / "results.md").read_text()
    assert not (tmp_path / "folder" / "images").exists()


@pytest.mark.e2e
def test_checkpoints_of_a_run_of_two_stages_give_a_curve_of_those_that_make_images(tiny_run, scored, tmp_path, caplog):
    options = ["num_images=4", "metric=offline"]
    results = scored("curve", f"ckpts='{tiny_run}/**/step-*.ckpt'", *options, ckpt=False)
    assert "checkpoints of LatentDiffusion are measured; left out: 3 of ConvAutoencoder" in caplog.text
    lines = (tmp_path / "curve" / "curve.csv").read_text().splitlines()
    assert lines[0] == "step,checkpoint,images,frechet_efficientnet"
    assert len(lines) == 1 + len(results) > 2
    steps = [int(line.split(",")[0]) for line in lines[1:]]
    assert steps == sorted(set(steps))
    assert (tmp_path / "curve" / "curve.png").is_file()
    newest = sorted(tiny_run.glob("diffusion/**/step-*.ckpt"))[-1]
    scored("curve", f"ckpts='{newest}'", *options, ckpt=False)
    assert len((tmp_path / "curve" / "curve.csv").read_text().splitlines()) == 2, "folders of others are our own, too"
    (tmp_path / "curve" / newest.stem / "grid.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds what was not written by this program \(grid.png\)"):
        scored("curve", f"ckpts='{tiny_run}/diffusion/**/step-*.ckpt'", *options, ckpt=False)
    with pytest.raises(
        ValueError, match="none of the 3 files .* is a checkpoint of LatentDiffusion.*; there are 3 of Conv"
    ):
        scored("new", f"ckpts='{tiny_run}/autoencoder/**/step-*.ckpt'", *options, ckpt=False)


@pytest.mark.e2e
def test_what_was_done_is_said(scored, tmp_path, caplog):
    caplog.set_level("INFO")
    samples = len(scored("all", "metric=offline")[0]["scores"]) and 24
    found = scored("more", f"num_images={samples + 1}", "metric=offline", "sampler=ddim", "sampler.steps=2")[0]
    assert found["doubts"][0].startswith(
        f"{samples + 1} images are made for {samples} validation samples, so each of these comes up"
    )
    assert found["size"] == [32, 32]
    page = (tmp_path / "more" / "results.md").read_text()
    for line in (
        "25 images of 32 x 32 pixels",
        "| sampler | DDIM |",
        "| sampler.steps | 2 |",
        "| sampler.eta | 0.0 |",
        "| seed | 1000000 |",
    ):
        assert line in page
    assert "| guidance | " in page
    assert page.count("\n25. a ") == 1, "the caption of the last image of the picture"
    assert "all images are there" not in caplog.text
    scored("more", f"num_images={samples + 1}", "metric=offline", "sampler=ddim", "sampler.steps=2")
    assert "all images are there" in caplog.text


@pytest.mark.e2e
def test_beside_published_scores_stands_where_the_protocol_was_not_followed(scored, tmp_path, capsys):
    options = ["protocol=coco256_guided", "num_images=4", "sampler.steps=2", "~metric.fid", "~metric.inception_score"]
    found = scored("other", *options, "+metric={frechet_efficientnet:${fe}}".replace("${fe}", OFFLINE))[0]
    assert found["departures"] == ["num_images: 30000 -> 4", "sampler.steps: 250 -> 2"]
    page = (tmp_path / "other" / "results.md").read_text()
    assert "The protocol was not followed:\n\n- num_images: 30000 -> 4\n- sampler.steps: 250 -> 2" in page
    assert "not as in the protocol: sampler.steps: 250 -> 2" in capsys.readouterr().out


@pytest.mark.e2e
def test_a_break_says_that_the_same_command_goes_on(scored, monkeypatch, caplog):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ldm.evaluate.measured_images.SampledImages.make", stop)
    with pytest.raises(KeyboardInterrupt):
        scored("broken", "num_images=4")
    assert "the same command goes on from there" in caplog.text


@pytest.mark.e2e
def test_models_paths_and_conditions_are_checked_before_weights_of_metrics(tiny_run, scored, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("the weights of a metric were loaded")

    monkeypatch.setattr("ldm.pretrained.efficientnet.EfficientNetLite0.__init__", load)
    for options, message in (
        ([f"ckpt={tiny_run / 'autoencoder.safetensors'}"], "holds ConvAutoencoder, not a latent diffusion model"),
        ([f"ckpt={tmp_path / 'nowhere'}"], "no checkpoint at"),
        ([f"ckpt={tiny_run}", "conditions=classes"], "conditions=classes does not say caption"),
        ([f"ckpt={tiny_run}", "reference=nowhere.npz"], "no file reference=nowhere.npz"),
        (["images=nowhere"], "no image at nowhere"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            scored("new", *options, "metric=offline", ckpt=False)


@pytest.mark.e2e
def test_another_request_and_mistakes_are_refused_before_anything_is_written(tiny_run, scored, tmp_path):
    scored("mine", "num_images=4", "metric=offline")
    before = files_of(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"holds images of another request:\n  seed: 1000000 -> 5"):
        scored("mine", "num_images=4", "metric=offline", "seed=5")
    assert files_of(tmp_path / "mine") == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    for options, message in (
        (["out=" + str(tmp_path / "foreign")], "holds what was not written by this program"),
        (["images=photos"], "give one of ckpt=RUN"),
        (["num_images=1"], "frechet_efficientnet needs at least 2 images, but there are 1"),
        (["conditions=classes"], "conditions=classes does not say caption"),
        (["reference=nowhere.npz"], "no file reference=nowhere.npz"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            scored("new", *options)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_can_be_chosen_and_built(name):
    needed = ["conditions.file=captions.tsv"] if name == "mlperf_sd" else []
    config = compose("evaluate", [f"protocol={name}", "out=x", "ckpt=x", *needed])
    protocol = build(config.protocol)
    assert isinstance(protocol, Protocol)
    assert protocol.name == name
    assert bool(protocol.published) == bool(protocol.source)
    build(config.conditions)
    if config.get("sampler") is not None:
        assert build(config.sampler).steps == config.sampler.steps
        build(config.guidance)
    measured = {"fid": {"fid"}, "inception_score": {"inception_score"}, "precision_recall": {"precision", "recall"}}
    measured["clip_score"] = {"clip_score"}
    names = {score for metric in config.get("metric") or () for score in measured[metric]}
    assert set(protocol.published) <= names


def test_a_place_is_read_from_the_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert Place.here() == Place(0, 1)
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert Place.here() == Place(3, 4)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Place.here().share(range(7)) == range(1, 7, 2)
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(ValueError, match="RANK=2 is not below WORLD_SIZE=2"):
        Place.here()
