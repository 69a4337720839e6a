"""MLPerf's benchmark in small: shards in its layout are trained on, and its compliance checker passes the log."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mlperf_logging.compliance_checker import mlp_compliance
from mlperf_logging.rcp_checker.rcp_checker import read_submission_file

from ldm import checkpoint
from ldm.config import build
from ldm.logger.mllog_file import LOG_FILE
from ldm.logger.offline_evaluation import append_evaluation, append_run_stop
from ldm.pretrained.inception_network import InceptionV3
from tests.conditioner.test_conditioner import CAPTIONS, save_pretrained
from tests.conftest import forked
from tests.data.small_shards import foreign
from tests.metric.torch_fidelity_numbers import inception_weights
from tests.pretrained.test_clip_score import save_clip

pytestmark = pytest.mark.e2e

NETWORK = {
    "_target_": "ldm.autoencoder.convolutional.ConvAutoencoder",
    "latent_channels": 4,
    "channels": 8,
    "channel_mult": [1, 1, 1, 1],
    "blocks": 1,
    "groups": 4,
    "regularizer": {"_target_": "ldm.autoencoder.kl.KLRegularizer"},
}
"""Downsamples by 8 to 4 channels, as MLPerf's."""


def files(folder, **network):
    """Write shards in MLPerf's layout, a text encoder and an autoencoder; return the options that name them."""
    foreign(folder / "shards", [20, 20])
    foreign(folder / "shards", [6], split="val")
    save_pretrained(folder / "clip", "clip")
    autoencoder = build({**NETWORK, **network})
    autoencoder.statistics_count.fill_(1)
    checkpoint.save(folder / "autoencoder.safetensors", autoencoder, {**NETWORK, **network})
    return [
        f"data.train={folder}/shards/train-*.tar",
        f"data.val={folder}/shards/val-*.tar",
        f"autoencoder.ckpt={folder}/autoencoder.safetensors",
        f"conditioner.name={folder}/clip",
        f"paths.runs_dir={folder}/runs",
        f"paths.data_dir={folder}/data",
    ]


TINY = [
    "experiment=mlperf_sd",
    "debug=tiny_diffusion",
    "trainer=cpu",
    "name=tiny",
    "logger=mllog",
    "data.size=64",
    "data.workers=0",
    "logger.mllog.eval_samples=6",
    "conditioner.width=16",
    "conditioner.max_tokens=9",
    "conditioner.pad_token='[PAD]'",
    "images_between_evaluations=7",
    "stage.diffusion.batch_size=4",
    "stage.diffusion.callbacks.checkpoint.every_n_steps=2",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run that was ended after two steps, and went on for two more."""
    folder = tmp_path_factory.mktemp("mlperf")
    given = files(folder)
    for steps in (2, 4):
        forked("train.py", *TINY, *given, f"stage.diffusion.trainer.max_steps={steps}")
    return folder / "runs" / "tiny"


def lines(log):
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in log.read_text().splitlines()]


def passes(log, rules):
    """Return whether the compliance checker passes a log by the rules of a round."""
    checker = mlp_compliance.make_checker("training", rules, quiet=False, werror=True)
    return mlp_compliance.main(str(log), f"training_{rules}/common.yaml", checker)[0]


def evaluated(log, *scores):
    for step, (fid, clip) in zip((2, 4), scores, strict=True):
        append_evaluation(log, step=step, fid=fid, clip=clip, began=0.0, ended=1.0)
    return append_run_stop(log)


@pytest.fixture
def log(run, tmp_path):
    """Return a copy of the log of the run."""
    copy = tmp_path / LOG_FILE
    copy.write_bytes((run / "diffusion" / LOG_FILE).read_bytes())
    return copy


@pytest.mark.parametrize("rules", ["3.1.0", "4.0.0", "4.1.0", "5.0.0"])
def test_the_compliance_checker_passes_its_log(log, rules):
    assert not passes(log, rules), "it is not evaluated yet"
    assert evaluated(log, (96.5, 0.149), (81.25, 0.1625)) == "success"
    assert passes(log, rules)
    failed, samples, batch, benchmark = read_submission_file(str(log), rules, False)
    assert (failed, batch, benchmark) == (0, 4, "stable_diffusion")
    assert samples == (4 if rules == "3.1.0" else 16), "the first point that passes: in steps, later in images"


def test_the_checker_fails_a_log_that_misses_the_target(log):
    assert evaluated(log, (96.5, 0.149), (95.0, 0.1625)) == "aborted"
    assert not passes(log, "5.0.0")
    assert read_submission_file(str(log), "5.0.0", False)[0] == 1


@pytest.mark.parametrize("key", ["opt_adamw_epsilon", "global_batch_size", "init_stop", "run_start", "train_samples"])
def test_the_checker_fails_a_log_without_a_line(log, key):
    evaluated(log, (96.5, 0.149), (81.25, 0.1625))
    log.write_text("".join(line for line in log.read_text().splitlines(True) if f'"key": "{key}"' not in line))
    assert not passes(log, "5.0.0")


def test_the_log_says_what_was_done(run):
    found = lines(run / "diffusion" / LOG_FILE)
    said = {line["key"]: line["value"] for line in found}
    expected = {
        "submission_benchmark": "stable_diffusion",
        "global_batch_size": 4,
        "train_samples": 40,
        "eval_samples": 6,
        "gradient_accumulation_steps": 1,
        "opt_name": "adamw",
        "opt_base_learning_rate": 2.3e-7,
        "opt_adamw_beta_1": 0.9,
        "opt_adamw_beta_2": 0.999,
        "opt_adamw_epsilon": 1e-8,
        "opt_adamw_weight_decay": 0.01,
        "opt_learning_rate_warmup_steps": 1000,
        "cache_clear": False,
    }
    assert {key: said[key] for key in expected} == expected
    once = [line["key"] for line in found if line["key"] in {*expected, "init_start", "init_stop", "run_start"}]
    assert len(once) == len(set(once)), "also though the run was interrupted"
    blocks = [(line["key"], line["metadata"]["samples_count"]) for line in found if "block" in line["key"]]
    assert blocks == [("block_start", 0), ("block_stop", 8), ("block_start", 8), ("block_stop", 16)]
    losses = [line for line in found if line["key"] == "tracked_stats" and "train/loss" in line["value"]]
    assert len(losses) == 4
    assert str(Path.cwd()) not in (run / "diffusion" / LOG_FILE).read_text()


def test_the_protocol_adds_its_scores_to_the_log(run, log, tmp_path):
    copy = tmp_path / "runs" / "stage"
    shutil.copytree(run / "diffusion" / "checkpoints", copy / "checkpoints")
    log = log.rename(copy / LOG_FILE)
    table = tmp_path / "captions.tsv"
    rows = [f"{number}\t{number}\t{caption}" for number, caption in enumerate(CAPTIONS[:3] * 2)]
    table.write_text("\n".join(["id\timage_id\tcaption", *rows]))
    torch.save(inception_weights(InceptionV3()), tmp_path / "inception.pth")
    np.savez(tmp_path / "real.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    (tmp_path / "clip").mkdir()
    command = [
        "protocol=mlperf_sd",
        f"ckpts='{copy}/**/step-*.ckpt'",
        f"conditions.file={table}",
        f"reference={tmp_path}/real.npz",
        f"metric.fid.extractor.weights={tmp_path}/inception.pth",
        f"metric.clip_score.name={save_clip(tmp_path / 'clip')}",
        "size=64",
        "sampler.steps=2",
        f"out={tmp_path}/scores",
    ]
    before = log.read_text()
    text = forked("-m", "ldm.evaluate", *command, "num_images=4")
    assert "scores of 4 images, where it says 6" in text
    assert log.read_text() == before
    for _ in range(2):
        text = forked("-m", "ldm.evaluate", *command, "num_images=6")
        assert f"{log}: " in text
        added = [line for line in lines(log) if line["key"].startswith(("eval_a", "eval_st", "run_stop"))]
        assert [line["key"] for line in added].count("eval_accuracy") == 4
        assert [line["key"] for line in added].count("run_stop") == 1
    assert log.read_text().startswith(before)
    for step in (2, 4):
        scores = json.loads((tmp_path / "scores" / f"step-{step:08d}" / "results.json").read_text())["scores"]
        said = {line["metadata"]["metric"]: line["value"] for line in added if is_score(line, step)}
        assert said == {"FID": scores["fid"], "CLIP": scores["clip_score"]}


def is_score(line, step):
    return line["key"] == "eval_accuracy" and line["metadata"]["step_num"] == step


def test_every_point_of_evaluation_is_kept_and_samples(run):
    assert sorted(path.name for path in (run / "diffusion" / "checkpoints").glob("step-*")) == [
        "step-00000002.ckpt",
        "step-00000004.ckpt",
    ]
    content = torch.load(run / "diffusion" / "checkpoints" / "step-00000004.ckpt", weights_only=True)
    assert content["CaptionedImages"]["encoding"] == {
        "array": "npy",
        "channels": "4",
        "downsampling_factor": "8",
        "scale": "0.18215",
        "shift": "0.0",
        "images in": "[0, 1]",
        "size": "64",
    }
    model = checkpoint.load(run)
    assert (model.autoencoder.scale == 0.18215).all()
    assert (model.autoencoder.shift == 0).all()
    images = model.sample(prompts=["caption 1", "caption 2"], seeds=[1, 2])
    assert images.shape == (2, 3, 64, 64)
    assert images.isfinite().all()


EVALUATION = [
    f"+stage.diffusion.callbacks.evaluation.{option}"
    for option in ("_target_=ldm.callback.evaluation.Evaluation", "metrics=${metric}", "batch_size=4", "cache=nowhere")
]


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ({}, ["data.moments.channels=2"], "instead of (4, 8, 8); set data.size, data.moments.channels"),
        ({}, ["data=shards"], "declare it: data=moments"),
        ({}, EVALUATION, "there are only moments; set stage.diffusion.callbacks.evaluation=null"),
        ({"channel_mult": [1, 1, 1]}, [], "have 4 channels of 2 numbers, downsampled by 4; give the autoencoder that"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(tmp_path, network, options, message):
    text = forked("train.py", *TINY, *files(tmp_path, **network), *options, ok=False)
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "runs").exists()
