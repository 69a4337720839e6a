"""Whole runs of `train.py`, tiny: what is in the folder, going on after an interruption, two processes, sweeps."""

import csv
import html
import json
import re
import shlex
import shutil
import tarfile
from types import SimpleNamespace

import pytest
import torch
from transformers import ViTConfig, ViTModel

from ldm.callback.curves import read_metrics
from ldm.checkpoint import load, load_autoencoder, read
from ldm.ema.snapshot import read_snapshots
from ldm.generation.decoder import with_decoder
from ldm.guidance.base import NoGuidance
from ldm.pretrained.vision import VisionEncoder
from ldm.report.record import read_record
from ldm.sampler.ddpm import DDPM
from ldm.sampler.heun import Heun
from tests.conditioner.test_conditioner import save_pretrained
from tests.conftest import command, forked, forked_ranks
from tests.data.small_shards import write_tar
from tests.pretrained.test_clip_score import save_clip
from tests.pretrained.test_vision import save_vision
from tests.training.stages import built, composed, stages

pytestmark = pytest.mark.e2e

TINY = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu"]


def tensors(file):
    return read(file)[1]


def same_weights(a, b):
    a, b = tensors(a), tensors(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_folder_holds_everything(tiny_run):
    for name in ("config.yaml", "curves.png", "autoencoder.safetensors", "model.safetensors"):
        assert (tiny_run / name).stat().st_size > 100, name
    for stage, picture in (("autoencoder", "reconstructions"), ("diffusion", "samples")):
        folder = tiny_run / stage
        assert (folder / "checkpoints" / "step-00000020.ckpt").is_file()
        names = sorted(path.name for path in (folder / "pictures").iterdir())
        assert [name for name in names if name.endswith(".png")] == [f"{picture}-{step:08d}.png" for step in (10, 20)]
        beside = [f"samples-{step:08d}.txt" for step in (10, 20)] if picture == "samples" else []
        assert [name for name in names if not name.endswith(".png")] == beside
        logged = read_metrics(folder / "logs")
        (rates,) = [values for name, values in logged.items() if name in ("lr-Adam", "lr-AdamW")]
        assert [step for step, _ in rates] == [step for step, _ in logged["train/gradient_norm"]] == [5, 10, 15, 20]
    captions = (tiny_run / "diffusion" / "pictures" / "samples-00000020.txt").read_text().splitlines()
    assert all(re.fullmatch("an? .* on an? .* background", caption) for caption in captions)
    assert f"<li>{captions[0]}</li>" in (tiny_run / "report.html").read_text()
    autoencoder, diffusion = (
        json.loads((tiny_run / stage / "results.json").read_text()) for stage in ("autoencoder", "diffusion")
    )
    assert {"val/psnr", "val/ssim", "val/kl"} <= autoencoder.keys()
    assert {"eval/caption_accuracy", "eval/icon_accuracy", "eval/frechet_efficientnet", "val/loss"} <= diffusion.keys()
    assert autoencoder["steps"] == diffusion["steps"] == 20
    record = read_record(tiny_run)
    (invocation,) = record.invocations
    assert invocation.command.startswith("python train.py experiment=txt2img debug=tiny trainer=cpu name=tiny ")
    assert invocation.hardware["trained on"] == "cpu"
    assert any("frechet_efficientnet is measured on 16 images" in text for text in invocation.warnings)
    assert record.experiment == "txt2img"
    page = (tiny_run / "report.html").read_text()
    assert "<title>tiny: report of a run</title>" in page
    assert record.next_command in html.unescape(page)
    assert page.count("<img") == 4
    assert page.count("<svg") >= 10
    curves = read_metrics(tiny_run / "autoencoder" / "logs")
    assert {"train/reconstruction", "train/discriminator", "train/adversarial_weight", "val/psnr"} <= curves.keys()
    assert {"train/gradient_norm", "train/discriminator_gradient_norm"} <= curves.keys()
    diffusion = read_metrics(tiny_run / "diffusion" / "logs")
    assert "train/gradient_norm" in diffusion
    for logged in (curves, diffusion):
        assert [step for step, _ in logged["throughput/images_per_second"]] == [5, 10, 15, 20]
        assert all(0 <= share <= 1 for _, share in logged["throughput/data_wait"])
    assert list((tiny_run.parent.parent / "data" / "reference").glob("*.safetensors"))


def test_the_same_command_again_says_that_all_is_done(tiny_run, places):
    before = (tiny_run / "model.safetensors").stat().st_mtime_ns
    text = forked(*TINY, *places)
    assert "all is done already" in text
    assert "next: python sample.py ckpt=" in text
    assert (tiny_run / "model.safetensors").stat().st_mtime_ns == before
    moved = forked(*TINY, "paths.data_dir=/moved", places[1], "data.workers=1")
    assert "all is done already" in moved, "where data lie and who reads them is not what was trained"


def test_a_report_that_cannot_be_written_is_only_warned_of(tiny_run, places):
    page = tiny_run / "report.html"
    kept = page.rename(page.with_name("kept.html"))
    page.mkdir()
    text = forked(*TINY, *places)
    page.rmdir()
    kept.rename(page)
    assert f"the report {page} could not be written (" in text
    assert "all is done already" in text
    assert "next: python sample.py ckpt=" in text


def test_another_config_in_the_same_folder_is_refused(tiny_run, places):
    text = forked(*TINY, *places, "stage.diffusion.trainer.max_steps=21", ok=False)
    assert "stage.diffusion.trainer.max_steps: 20 -> 21" in text
    assert "name=tiny-2" in text


def test_a_run_killed_after_its_last_step_still_ends_with_averaged_weights_and_statistics(tiny_run, places, tmp_path):
    """The last checkpoint may be that of the last step: then nothing is left to train, but all that follows is."""
    runs = tmp_path / "runs"
    shutil.copytree(tiny_run, runs / "tiny")
    for name in ("autoencoder.safetensors", "model.safetensors", "autoencoder/results.json", "diffusion/results.json"):
        (runs / "tiny" / name).unlink()
    forked(*TINY, places[0], f"paths.runs_dir={runs}")
    for name in ("autoencoder.safetensors", "model.safetensors"):
        assert same_weights(runs / "tiny" / name, tiny_run / name), name


@pytest.fixture(scope="module")
def ddp_run(home, places):
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=two"]
    text = command(*TINY[:-1], *two, *places)
    assert text.count("training diffusion on 2 x cpu") == 1, "the first process says it for both"
    return home / "runs" / "two"


def test_two_processes_train_both_stages_and_evaluate(ddp_run, tiny_run):
    network, _ = load_autoencoder(ddp_run)
    alone, _ = load_autoencoder(tiny_run)
    assert int(network.statistics_count) == int(alone.statistics_count), "all images once, over both ranks"
    results = json.loads((ddp_run / "diffusion" / "results.json").read_text())
    assert results["steps"] == 20
    assert results["eval/frechet_efficientnet"] > 0
    accuracy = results["eval/icon_accuracy"] * 16
    assert accuracy == pytest.approx(round(accuracy)), "a share of 16 images, 8 from each rank"
    assert load(ddp_run).sample(prompts=["a red heart"]).isfinite().all()


def test_ranks_draw_different_noise_and_keep_equal_weights(tmp_path):
    text = forked_ranks("-m", "tests.two_ranks", str(tmp_path))
    assert text.count("ranks agree") == 2, text
    assert len(read_snapshots(tmp_path / "runs" / "ranks" / "diffusion" / "ema")) == 4, "after 5, 10, 15, 20 steps"


def test_sweep_runs_each_choice_in_its_folder(home, tiny_run, places):
    options = ["experiment=txt2img", "debug=tiny", "trainer=cpu", "name=swept", "stage.diffusion.trainer.max_steps=5"]
    sweep = ["train.py", "-m", *options, "seed=1,2", f"autoencoder.ckpt={tiny_run}", *places]
    text = forked(*sweep)
    assert text.endswith(f"next: python -m ldm.compare {home / 'runs' / 'swept-sweep'}/*\n")
    rows = [line.split()[1] for line in text.rpartition("Runs of the sweep")[2].splitlines() if " seed=" in line]
    assert rows == ["seed=1", "seed=2"]
    results = sorted((home / "runs" / "swept-sweep").glob("*/diffusion/results.json"))
    assert [file.parent.parent.name for file in results] == ["seed=1", "seed=2"]
    assert len({file.read_text() for file in results}) == 2
    (begun,) = read_record(results[0].parent.parent).invocations
    assert begun.command.startswith("python train.py -m experiment=txt2img ")
    assert " seed=1,2 " in begun.command
    text = forked(*sweep)
    assert text.count("all is done already") == 2


def test_optuna_study_goes_on(home, tiny_run, places):
    optuna = pytest.importorskip("optuna")
    ckpt = f"autoencoder.ckpt={tiny_run}"

    def search(trials):
        return forked(
            "train.py",
            "-m",
            "experiment=txt2img",
            "debug=tiny",
            "hparams_search=optuna",
            "trainer=cpu",
            "name=searched",
            "stage.diffusion.trainer.max_steps=4",
            "stage.diffusion.callbacks.evaluation.final_images=4",
            f"search.trials={trials}",
            ckpt,
            *places,
        )

    search(2)
    storage = f"sqlite:///{home}/runs/searched-sweep/study.db"
    first = optuna.load_study(study_name="searched, maximize caption_accuracy", storage=storage).trials
    assert [trial.state.name for trial in first] == ["COMPLETE"] * 2
    text = search(3)
    assert text.rpartition("Runs of the sweep")[2].count("drop_rate=") == 3, "also those of the first command"
    trials = optuna.load_study(study_name="searched, maximize caption_accuracy", storage=storage).trials
    assert len(trials) == 3
    assert [t.params for t in trials[:2]] == [t.params for t in first]
    assert all(0 <= trial.value <= 1 for trial in trials)


def test_wandb_works_offline_with_pictures_and_batches_accumulate(home, tiny_run, places):
    """Twice as many batches, as many optimiser steps, and epochs as long as before."""
    ckpt = f"autoencoder.ckpt={tiny_run}"
    forked(*TINY, "name=logged", "logger=wandb", ckpt, "trainer.accumulate_grad_batches=2", *places)
    run = home / "runs" / "logged"
    assert " trainer.accumulate_grad_batches=2 " in read_record(run).invocations[0].command, "as it was typed"
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert list((run / "wandb").glob("offline-run-*/files/media/images/samples*.png"))
    assert json.loads((run / "diffusion" / "results.json").read_text())["steps"] == 20
    last = torch.load(run / "diffusion" / "checkpoints" / "step-00000020.ckpt", weights_only=True)
    assert last["global_step"] == 20
    assert last["CaptionedImages"]["position"] == 20


def test_stage_one_alone_and_own_shards(home, places, tiny_run):
    """The experiments for people's own shards, on shards that lie there."""
    icons = next((home / "data").glob("icons-*"))
    own = [
        "data=shards",
        f"data.train={icons}/train-*.tar",
        f"data.val={icons}/val-*.tar",
        "data.size=32",
        "data.workers=1",
    ]
    text = forked(
        "train.py", "experiment=autoencoder", *own, "debug=tiny_autoencoder", "trainer=cpu", "name=alone", *places
    )
    (line,) = [line for line in text.splitlines() if line.startswith("next: ")]
    typed = shlex.split(line)
    assert typed[1:4] == ["python", "train.py", "experiment=txt2img_shards"]
    assert {*own, "trainer=cpu", *places, f"autoencoder.ckpt={home / 'runs' / 'alone'}"} == set(typed[4:])
    forked(
        "train.py", "experiment=txt2img_shards", *own, "debug=tiny_diffusion", "trainer=cpu", "name=own",
        f"autoencoder.ckpt={home / 'runs' / 'alone'}", "conditioner=transformer", *places,
    )  # fmt: skip
    with (home / "runs" / "own" / "diffusion" / "logs" / "metrics.csv").open() as lines:
        assert any(row.get("train/loss") for row in csv.DictReader(lines))


def test_a_frozen_text_encoder_travels_in_the_checkpoint(home, places, tiny_run, tmp_path):
    """Trained with a folder's BERT, sampled after the folder is gone."""
    save_pretrained(tmp_path / "bert", "bert")
    forked(
        "train.py", "experiment=txt2img", "conditioner=huggingface", f"conditioner.name={tmp_path / 'bert'}",
        "conditioner.width=16", "conditioner.max_tokens=12", "data.source.count=6", f"autoencoder.ckpt={tiny_run}",
        "stage.diffusion.trainer.max_steps=3", "stage.diffusion.callbacks.evaluation.final_images=4",
        "sampler.steps=3", "trainer=cpu",
        "name=bert", *places,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "bert")
    images = load(home / "runs" / "bert").sample(prompts=["a red heart on a white background", ""])
    assert images.isfinite().all()
    assert not torch.equal(images[0], images[1])


@pytest.fixture(scope="module")
def damaged_shards(home, tiny_run, tmp_path_factory):
    """The icons with each fourth training image cut in half, which only reading it shows."""
    folder = tmp_path_factory.mktemp("damaged")
    whole = max((home / "data").glob("icons-*/train-000000.tar"), key=lambda path: path.stat().st_size)
    source = whole.parent
    shutil.copy(source / "val-000000.tar", folder)
    files = []
    with tarfile.open(whole) as archive:
        for number, member in enumerate(archive):
            data = archive.extractfile(member).read()
            files.append((member.name, data[:-60] if member.name.endswith("png") and number % 4 == 1 else data))
    write_tar(folder / "train-000000.tar", files)
    return [f"data.train={folder}/train-*.tar", f"data.val={folder}/val-*.tar", "data.size=32"]


@pytest.fixture
def second_stage(tiny_run, places):
    """Options of a tiny stage 2 on shards."""
    ckpt = f"autoencoder.ckpt={tiny_run / 'autoencoder.safetensors'}"
    networks = ["autoencoder=kl_icons", "backbone=unet_icons", "conditioner=transformer_icons"]
    return ["train.py", "experiment=txt2img_shards", "debug=tiny_diffusion", "trainer=cpu", ckpt, *networks, *places]


def test_too_many_broken_images_end_all_ranks(damaged_shards, second_stage):
    """With the names of the shards, and without one rank waiting for the other."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.workers=1", "name=damaged"]
    text = forked_ranks(*second_stage, *damaged_shards, *two, ok=False)
    assert "samples cannot be used (unreadable image" in text
    assert "data.max_broken=0.01" in text


def test_streaming_without_an_index_trains_both_stages(damaged_shards, second_stage, places, home):
    """And survives as much damage as is allowed."""
    options = ["data=stream", "data.max_broken=0.5", "data.workers=1", "data.buffer=20", *damaged_shards, *places]
    first = ["experiment=autoencoder", "debug=tiny_autoencoder", "trainer=cpu", "name=streamed-1"]
    text = forked("train.py", *first, *options)
    assert "unreadable image" in text
    forked(*second_stage, *options, "name=streamed-2")
    for name, stage in (("streamed-1", "autoencoder"), ("streamed-2", "diffusion")):
        assert json.loads((home / "runs" / name / stage / "results.json").read_text())["steps"] == 20


def test_mixtures_filters_buckets_and_the_best_checkpoint_train(damaged_shards, second_stage, home):
    (folder,) = {option.partition("=")[2].rpartition("/")[0] for option in damaged_shards[:2]}
    mixture = f"[{{shards:{folder}/train-*.tar,weight:3}},{{shards:{folder}/val-*.tar,weight:1}}]"
    options = [*damaged_shards[1:], "data.max_broken=0.5", "data.workers=0"]
    mixed = [f"data.train={mixture}", "data.filters=['side >= 32']", "name=mixed"]
    forked(*second_stage, *options, *mixed, "stage.diffusion.callbacks.checkpoint.best=eval/frechet_efficientnet")
    kept = home / "runs" / "mixed" / "diffusion" / "checkpoints" / "best.ckpt"
    assert load(kept).sample(prompts=["a red heart"]).isfinite().all()
    bucketed = [damaged_shards[0], "data.buckets={multiple:16,max_ratio:2}", "name=bucketed"]
    forked(*second_stage, *options, *bucketed)


def test_latents_of_another_autoencoder_or_text_encoder_are_refused(tiny_run, places):
    config = composed("experiment=txt2img", "debug=tiny", "trainer=cpu", f"autoencoder.ckpt={tiny_run}", *places)
    stage = built("diffusion", config, tiny_run)
    right = {"autoencoder": stage.task.model.autoencoder.encoder_hash, "text": ""}
    for encoding in (right, {}):
        stage.check_data(SimpleNamespace(foreign=None, encoding=encoding, check_sizes=lambda check: check(32)))
        stage.check_captions(SimpleNamespace(foreign=None, encoding=encoding), new=False)
    with pytest.raises(ValueError, match="made by the autoencoder 0123, but autoencoder.ckpt is"):
        stage.check_data(SimpleNamespace(foreign=None, encoding={**right, "autoencoder": "0123"}))
    with pytest.raises(ValueError, match="text encoder 4567, but the conditioner is trained from scratch"):
        stage.check_captions(SimpleNamespace(foreign=None, encoding={**right, "text": "4567"}), new=True)
    with pytest.raises(ValueError, match="latents train stage 2 alone"):
        stages(config, tiny_run)["autoencoder"].check_data(SimpleNamespace(foreign=None, encoding=right))


def test_features_of_another_vision_encoder_are_refused(tiny_run, places, tmp_path):
    torch.manual_seed(0)
    aligned = ["alignment=repa", f"alignment.encoder.name={save_vision(tmp_path, 'vit')}", "alignment.encoder.size=16"]
    options = ["experiment=txt2img", "debug=tiny", "trainer=cpu", f"autoencoder.ckpt={tiny_run}", *places]
    stage = built("diffusion", composed(*options, *aligned), tiny_run)
    right = {"autoencoder": stage.task.model.autoencoder.encoder_hash, "text": ""}
    assert "patch_features" in stage.task.inputs
    stage.check_data(
        SimpleNamespace(
            foreign=None,
            check_sizes=lambda check: None,
            encoding={**right, "features": VisionEncoder(str(tmp_path), size=16).features_hash},
        )
    )
    for without in (right, {**right, "features": ""}):
        with pytest.raises(
            ValueError, match=r"reads latents without features; write them, python -m ldm.encode \.\.\. alignment=repa"
        ):
            stage.check_data(SimpleNamespace(foreign=None, check_sizes=lambda check: None, encoding=without))
    pooled = VisionEncoder(str(tmp_path), size=16, patches=2).features_hash
    with pytest.raises(
        ValueError, match=rf"made by the vision encoder {pooled}, but .* the same size and patches, or encode"
    ):
        stage.check_data(
            SimpleNamespace(foreign=None, check_sizes=lambda check: None, encoding={**right, "features": pooled})
        )
    plain = built("diffusion", composed(*options), tiny_run)
    assert "patch_features" not in plain.task.inputs
    plain.check_data(
        SimpleNamespace(foreign=None, check_sizes=lambda check: None, encoding={**right, "features": pooled})
    )


def test_a_run_on_latents_is_aligned_to_the_features_beside_them(home, tiny_run, second_stage, tmp_path):
    """The commands are those that are shown: the next command of encode trains."""
    torch.manual_seed(0)
    folder = min((home / "data").glob("icons-*/train-000000.tar"), key=lambda path: path.stat().st_mtime).parent
    shards = [f"data.train='{folder}/train-*.tar'", f"data.val='{folder}/val-*.tar'", "data.size=32", "data.workers=0"]
    name = save_vision(tmp_path / "vit", "dinov2")
    aligned = [
        "alignment=repa",
        f"alignment.encoder.name={name}",
        "alignment.encoder.size=16",
        "alignment.encoder.patches=2",
    ]
    ckpt = f"autoencoder.ckpt={tiny_run / 'autoencoder.safetensors'}"
    text = forked("-m", "ldm.encode", ckpt, *shards, *aligned, "flip=true", f"out={tmp_path / 'latents'}")
    (line,) = (line for line in text.splitlines() if line.startswith("next: "))
    rest = [option for option in second_stage if not option.startswith("autoencoder.ckpt=")]
    forked(*rest, *shlex.split(line)[4:], "data.workers=0", "alignment.steps=10", "name=repa")
    curve = dict(read_metrics(home / "runs" / "repa" / "diffusion" / "logs")["train/alignment"])
    assert [value != 0 for step, value in sorted(curve.items())] == [step <= 10 for step in sorted(curve)]


def test_other_ways_to_train_make_whole_runs(home, places, tiny_run, tmp_path):
    """A rectified flow with Muon, alignment to a vision encoder that ends early, and a robust distance, on two processes."""
    ViTModel(
        ViTConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            patch_size=8,
            image_size=32,
        ),
        add_pooling_layer=False,
    ).save_pretrained(tmp_path / "vit")
    aligned = f"alignment=repa alignment.encoder.name={tmp_path / 'vit'} alignment.encoder.size=32 alignment.steps=10"
    options = [
        *(
            "prediction=flow",
            "schedule=rectified_flow",
            "timestep_sampler=logit_normal",
            "weighting=constant",
            "criterion=huber",
        ),
        *("model.loss.noise_offset=0.1", "optimizer@stage.diffusion.optimizer=muon", "sampler=heun"),
        *(*aligned.split(), f"autoencoder.ckpt={tiny_run}", "name=flow"),
    ]
    text = forked(*TINY, *places, *options, ok=False)
    assert "alignment to a vision encoder needs the images" in text
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    forked_ranks(*TINY[:-1], *places, *options, *two, "data.cache_latents=false")
    curve = dict(read_metrics(home / "runs" / "flow" / "diffusion" / "logs")["train/alignment"])
    assert [value != 0 for step, value in sorted(curve.items())] == [step <= 10 for step in sorted(curve)]
    assert load(home / "runs" / "flow").sample(prompts=["a red heart"]).isfinite().all()


def test_edm_and_a_learned_variance_train_and_sample(home, places, tiny_run, tmp_path):
    """With guidance by a gradient, which validation must not forbid."""
    options = [
        "prediction=velocity",
        "schedule=edm",
        "weighting=edm",
        "timestep_sampler=log_normal",
        "sampler=heun",
        "name=variance",
    ]
    options += ["guidance=clip", f"guidance.score.name={save_clip(tmp_path)}", f"autoencoder.ckpt={tiny_run}"]
    forked(*TINY, *places, *options, "model.denoiser.learned_variance=true")
    model = load(home / "runs" / "variance")
    assert isinstance(model.sampler, Heun)
    for sampler in (model.sampler, DDPM(10)):
        assert model.sample(prompts=["a red heart"], sampler=sampler, guidance=NoGuidance()).isfinite().all()


def test_fine_tuning_the_decoder_leaves_the_latents_as_they_are(home, places, tiny_run):
    options = [
        "data=icons",
        "data.source.count=6",
        "data.size=32",
        "debug=tiny_autoencoder",
        "trainer=cpu",
        "name=tuned",
    ]
    text = forked("train.py", "experiment=finetune_decoder", f"autoencoder.ckpt={tiny_run}", *options, *places)
    assert f"next: python sample.py ckpt={tiny_run} decoder={home / 'runs' / 'tuned'} prompt=" in text
    for noise in ("Tip:", "TPU", "GPU available", "`Trainer.fit` stopped"):
        assert noise not in text, "what a library says about itself is no business of the user"
    assert "training autoencoder on cpu, " in text
    before, _ = load_autoencoder(tiny_run)
    after, _ = load_autoencoder(home / "runs" / "tuned")
    assert after.encoder_hash == before.encoder_hash
    assert torch.equal(after.shift, before.shift)
    assert torch.equal(after.scale, before.scale)
    assert not torch.equal(after.decoder.conv_in.weight, before.decoder.conv_in.weight)
    model = load(tiny_run)
    model.autoencoder = with_decoder(model.autoencoder, home / "runs" / "tuned")
    assert not torch.equal(model.sample(prompts=["a red heart"]), load(tiny_run).sample(prompts=["a red heart"]))
