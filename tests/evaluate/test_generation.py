"""Measuring generated images: image i depends on i alone, and scores not on who measured, or how often it was broken off."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from ldm.config import build, compose, resolved
from ldm.evaluate.departures import departures
from ldm.evaluate.folder import PART
from ldm.evaluate.parts import fit_parts
from ldm.evaluate.processes import Place
from ldm.evaluate.program import evaluate
from ldm.evaluate.protocol import Protocol
from ldm.metric.reference_file import write_statistics
from ldm.metric.statistics import Statistics
from tests.cases import mostly_slow
from tests.conftest import ROOT
from tests.guidance.models import Spelled

FEW = PART + 6

NEEDED = {"mlperf_sd": ["conditions.file=captions.tsv"], "cin256_guided": ["guidance.classifier.path=classifier"]}
"""Protocol -> the options without which it has no meaning."""
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
def test_data_that_a_command_names_are_those_of_a_run_of_a_file_and_of_a_folder(tiny_run, scored, tmp_path):
    data = OmegaConf.load(tiny_run / "config.yaml").data
    named = [f"data.val='{build(data.source).write()}/val-*.tar'", "num_images=4", "metric=offline"]
    alone = shutil.copy(tiny_run / "model.safetensors", tmp_path / "alone.safetensors")
    own = scored("own", "num_images=4", "metric=offline")[0]
    of_run = scored("of-run", *named)[0]
    of_file = scored("of-file", f"ckpt={alone}", *named, ckpt=False)[0]
    of_folder = scored("of-folder", f"images={tmp_path / 'own' / 'images'}", *named, ckpt=False)[0]
    assert of_run["scores"] == of_file["scores"] == of_folder["scores"] == own["scores"]
    assert of_run["request"]["conditions"] == own["request"]["conditions"]
    smaller = scored("smaller", f"ckpt={alone}", *named, "data.size=16", ckpt=False)[0]
    assert smaller["scores"] != own["scores"], "real images are of the size that is asked for"
    with pytest.raises(ValueError, match="reference=train names the training images of a run, and none is known here"):
        scored("new", f"images={tmp_path / 'own' / 'images'}", "metric=offline", "reference=train", ckpt=False)


@pytest.mark.e2e
def test_a_reference_that_cannot_serve_is_refused_before_images_are_made(scored, tmp_path):
    write_statistics(tmp_path / "narrow.npz", Statistics(9, torch.zeros(3).double(), torch.eye(3).double()))
    write_statistics(tmp_path / "alone.npz", Statistics(9, torch.rand(1280).double(), torch.eye(1280).double()))
    for file, metric, message in (
        ("narrow.npz", "offline", "holds statistics of 3 features"),
        ("alone.npz", "precision_recall_offline", "needs features of single real images"),
    ):
        with pytest.raises(ValueError, match=message):
            scored("new", "num_images=4", f"metric={metric}", f"reference={tmp_path / file}")
        assert not (tmp_path / "new").exists()


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
    with pytest.raises(ValueError, match="statistics= is a file for the images of one model; give ckpt="):
        scored("new", f"ckpts='{newest}'", "statistics=new.npz", *options, ckpt=False)


@pytest.mark.e2e
def test_a_size_that_a_metric_does_not_measure_is_refused_before_images_are_made(scored, tmp_path):
    message = "caption_accuracy compares images with drawings of 32 x 32 pixels, and here are images of 48 x 48; choose"
    with pytest.raises(ValueError, match=message):
        scored("large", "num_images=4", "size=48")
    assert not (tmp_path / "large").exists()


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
        "| guidance.threshold | null |",
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
        (["reference=nowhere"], "there is nothing at reference=nowhere; give statistics"),
        (["reference=../nowhere"], "there is nothing at reference=../nowhere; give statistics"),
        ([f"data.train={tmp_path}"], "are samples of data.val: give data.val="),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            scored("new", *options)
        assert not (tmp_path / "new").exists()


@pytest.fixture
def classifier(monkeypatch):
    """A classifier in the place of the file that `guidance=classifier` loads."""
    monkeypatch.setattr("ldm.checkpoint.load_classifier", lambda path: Spelled())


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.usefixtures("classifier")
def test_every_protocol_can_be_chosen_and_built(name):
    config = compose("evaluate", [f"protocol={name}", "out=x", "ckpt=x", *NEEDED.get(name, ())])
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


OTHERS = [(name, part) for name in PROTOCOLS for part in ("metric=offline", "sampler=dpmpp_2m", "guidance=none")]


@pytest.mark.parametrize(
    ("name", "part"), mostly_slow(OTHERS, ["coco256_guided", "cin256_guided", "mlperf_sd"]), ids=map("-".join, OTHERS)
)
@pytest.mark.usefixtures("classifier")
def test_a_part_of_a_protocol_can_be_exchanged(name, part):
    needed = () if part.startswith("guidance=") and name == "cin256_guided" else NEEDED.get(name, ())
    config = compose("evaluate", [f"protocol={name}", "out=x", "ckpt=x", *needed, part])
    fit_parts(config)
    for key in ("sampler", "guidance"):
        if config.get(key) is not None:
            build(config[key])
    assert all("_target_" in metric for metric in (config.get("metric") or {}).values())
    if config.protocol.get("published") and not part.startswith("metric"):
        found = departures(name, resolved(config), count=config.num_images, sampled=True)
        same = part == "guidance=none" and "guided" not in name and name != "mlperf_sd"
        assert [line.partition(":")[0] for line in found] == ([] if same else [part.partition("=")[0]])


def test_only_what_another_part_does_not_have_is_left_out():
    config = compose("evaluate", ["protocol=mlperf_sd", "out=x", "ckpt=x", "sampler=dpmpp_2m", "metric=fid"])
    assert fit_parts(config) == ["sampler.eta", "metric.clip_score"]
    assert config.sampler.steps == 50
    assert config.metric.fid.extractor.resize._target_.endswith("PyTorchBilinear")
    assert fit_parts(config) == []


@pytest.mark.parametrize(
    "name",
    ["coco256", "coco256_guided", "layout_openimages", "layout_coco_f8", "super_resolution", "super_resolution_big"],
)
def test_as_many_images_are_compared_as_are_made(name):
    config = compose("evaluate", [f"protocol={name}", "out=x", "ckpt=x"])
    assert config.data.val_images == config.num_images
    config.data.val_images = 10
    expected = [f"data.val_images: {config.num_images} -> 10"]
    assert departures(name, resolved(config), count=config.num_images, sampled=True) == expected


def test_how_samples_are_degraded_is_said_by_a_protocol_and_a_departure_where_it_was_another_way(tmp_path):
    config = compose("evaluate", ["protocol=super_resolution", "out=x", "ckpt=x", "degradation=bsr_light"])
    (line,) = departures("super_resolution", resolved(config), count=50000, sampled=True)
    assert line.startswith("degradation: Bicubic(")
    assert " -> BSRLight(" in line


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


@pytest.mark.e2e
def test_images_are_measured_before_they_are_rounded_where_that_is_asked_for(tiny_run, scored, tmp_path):
    """To the last digit the same, broken off or not; and no file has what is measured."""
    rounded = scored("rounded", f"num_images={FEW}")[0]["scores"]
    whole = scored("whole", f"num_images={FEW}", "unrounded=true")[0]
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "rounded")
    distance = whole["scores"]["frechet_efficientnet"]
    assert distance == pytest.approx(rounded["frechet_efficientnet"], rel=0.01)
    assert distance != rounded["frechet_efficientnet"]
    scored("grown", "num_images=20", "unrounded=true")
    next((tmp_path / "grown" / "parts").rglob("*.safetensors")).unlink()
    assert scored("grown", f"num_images={FEW}", "unrounded=true")[0]["scores"] == whole["scores"]
    later = scored("whole", f"num_images={FEW}", "unrounded=true", "metric=[offline,precision_recall_offline]")[0]
    assert later["scores"]["frechet_efficientnet"] == pytest.approx(distance, rel=1e-6)
    with pytest.raises(ValueError, match="holds images of another request:\n  unrounded: "):
        scored("whole", f"num_images={FEW}")
    with pytest.raises(ValueError, match="unrounded= has no meaning for the validation loss"):
        scored("loss", "protocol=validation_loss", "unrounded=true")
