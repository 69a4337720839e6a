"""MLPerf's benchmark in small: shards in its layout are trained on, checkpoints measured, and its checker reads the log."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlperf_logging
import pytest
import torch
from mlperf_logging.rcp_checker.rcp_checker import read_submission_file

from ldm import checkpoint
from ldm.config import build
from ldm.logger.mllog_file import LOG_FILE
from ldm.logger.offline_evaluation import append_evaluation, append_run_stop
from ldm.metric.reference_file import write_statistics
from ldm.metric.statistics import Statistics
from ldm.pretrained.inception import Inception
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


class Evaluation:
    """The stage of the run, copied, whose checkpoints `python -m ldm.evaluate` measures by real networks of random weights."""

    def __init__(self, stage, folder):
        shutil.copytree(stage / "checkpoints", folder / "runs" / "stage" / "checkpoints")
        self.log = Path(shutil.copy(stage / LOG_FILE, folder / "runs" / "stage"))
        self.scores = folder / "scores"
        table, weights, real = folder / "captions.tsv", folder / "inception.pth", folder / "real.npz"
        rows = [f"{number}\t{number}\t{caption}" for number, caption in enumerate(CAPTIONS[:3] * 2)]
        table.write_text("\n".join(["id\timage_id\tcaption", *rows]))
        torch.save(inception_weights(InceptionV3()), weights)
        images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
        write_statistics(real, Statistics.of(Inception(weights=weights)(images)))
        (folder / "clip").mkdir()
        self.command = [
            "protocol=mlperf_sd",
            f"ckpts='{folder}/runs/**/step-*.ckpt'",
            f"conditions.file={table}",
            f"reference={real}",
            f"metric.fid.extractor.weights={weights}",
            f"metric.clip_score.name={save_clip(folder / 'clip')}",
            "size=64",
            "sampler.steps=2",
            f"out={self.scores}",
        ]

    def run(self, num_images):
        """Measure, and return what was said."""
        return forked("-m", "ldm.evaluate", *self.command, f"num_images={num_images}")

    def of_step(self, step):
        """Return FID and CLIP score of a step's checkpoint, as the results say them."""
        found = json.loads((self.scores / f"step-{step:08d}" / "results.json").read_text())["scores"]
        return found["fid"], found["clip_score"]


@pytest.fixture(scope="module")
def evaluation(run, tmp_path_factory):
    """Return the evaluation of both checkpoints, whose scores are in the log."""
    found = Evaluation(run / "diffusion", tmp_path_factory.mktemp("evaluation"))
    found.run(num_images=6)
    return found


ROUNDS = ["3.1.0", "4.0.0", "4.1.0", "5.0.0"]
TARGETS = "(0.0 <= v['value']['FID'] <= {fid}) and ({clip} <= v['value']['CLIP'] <= 1.0)"
"""What the rules of each round say of the targets."""

OWN_TARGETS = TARGETS.format(fid="90.0", clip="0.15")


def with_targets(folder, fid, clip):
    """Copy the package of the checker into a folder, and change in its rules the two targets and nothing else."""
    package = shutil.copytree(Path(mlperf_logging.__file__).parent, folder / "mlperf_logging")
    for rules in ROUNDS:
        file = package / "compliance_checker" / f"training_{rules}" / "closed_stable_diffusion.yaml"
        text = file.read_text()
        assert text.count(OWN_TARGETS) == 1
        file.write_text(text.replace(OWN_TARGETS, TARGETS.format(fid=fid, clip=clip)))
    return folder


@pytest.fixture(scope="module")
def reached(evaluation, tmp_path_factory):
    """Return the folder of a copy of the checker whose targets are the scores of the last checkpoint."""
    return with_targets(tmp_path_factory.mktemp("reached"), *evaluation.of_step(4))


def complaints(log, rules, copy=None):
    """Return what the compliance checker, started as its users start it, says against a log by the rules of a round.

    `copy` is the folder of a copy of the package; None: the package as it is installed is started.
    """
    environment = {**os.environ, **({} if copy is None else {"PYTHONPATH": str(copy)})}
    command = ["-m", "mlperf_logging.compliance_checker", "--ruleset", rules, "--werror", "--log_output", os.devnull]
    done = subprocess.run([sys.executable, *command, log], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or done.stderr.endswith("ERROR - FAILED\n"), done.stderr
    if done.returncode == 0:
        assert done.stderr.endswith("INFO - SUCCESS\n")
        return []
    _, found = done.stderr.removesuffix("\nERROR - FAILED\n").split("WARNING -  ")
    return found.split(f"\n{'-' * 30}\n")


@pytest.mark.parametrize("rules", ROUNDS)
def test_the_compliance_checker_passes_the_log_of_a_run_and_of_its_evaluation(evaluation, reached, rules):
    """By its rules with targets that the run reaches. By its own rules it finds one fault: that theirs are not reached."""
    assert complaints(evaluation.log, rules, reached) == []
    assert complaints(evaluation.log, rules) == [f"Failed checks for aggregated_eval_accuracy : {OWN_TARGETS}"]
    not_converged, _, batch, benchmark = read_submission_file(str(evaluation.log), rules, False)
    assert (not_converged, batch, benchmark) == (1, 4, "stable_diffusion")


def test_the_checker_fails_the_log_by_targets_that_are_just_missed(evaluation, tmp_path):
    fid, clip = min(evaluation.of_step(step)[0] for step in (2, 4)), -1.0
    assert complaints(evaluation.log, "5.0.0", with_targets(tmp_path / "reached", fid, clip)) == []
    targets = {"fid": fid - 1e-6 * fid, "clip": clip}
    found = complaints(evaluation.log, "5.0.0", with_targets(tmp_path / "missed", **targets))
    assert found == [f"Failed checks for aggregated_eval_accuracy : {TARGETS.format(**targets)}"]


def test_the_checker_fails_the_log_of_a_run_that_is_not_evaluated(run):
    found = complaints(run / "diffusion" / LOG_FILE, "5.0.0")
    assert any("'run_stop' but found 0" in complaint for complaint in found)
    assert any("'eval_accuracy' but found 0" in complaint for complaint in found)


@pytest.mark.parametrize("key", ["opt_adamw_epsilon", "global_batch_size", "init_stop", "run_start", "train_samples"])
def test_the_checker_fails_the_log_without_a_line(evaluation, reached, tmp_path, key):
    whole = evaluation.log.read_text().splitlines(True)
    log = tmp_path / LOG_FILE
    log.write_text("".join(line for line in whole if f'"key": "{key}"' not in line))
    assert any(f"'{key}' but found 0" in complaint for complaint in complaints(log, "5.0.0", reached))


@pytest.mark.parametrize("rules", ROUNDS)
def test_a_log_whose_scores_reach_the_benchmarks_own_targets_says_success(run, tmp_path, rules):
    """No tiny model reaches them: here the scores are invented, and all other lines are the run's."""
    log = Path(shutil.copy(run / "diffusion" / LOG_FILE, tmp_path))
    for step, fid, clip in ((2, 96.5, 0.149), (4, 81.25, 0.1625)):
        append_evaluation(log, step=step, fid=fid, clip=clip, began=0.0, ended=1.0)
    assert append_run_stop(log) == "success"
    assert complaints(log, rules) == []
    not_converged, samples, _, _ = read_submission_file(str(log), rules, False)
    assert not_converged == 0
    assert samples == (4 if rules == "3.1.0" else 16), "the first point that passes: in steps, later in images"


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


def test_the_protocol_adds_its_scores_to_the_log_once(run, evaluation):
    log = evaluation.log.read_text()
    trained = (run / "diffusion" / LOG_FILE).read_text()
    assert log.startswith(trained)
    added = lines(evaluation.log)[trained.count("\n") :]
    one = ["eval_start", "eval_accuracy", "eval_accuracy", "eval_stop"]
    assert [line["key"] for line in added] == [*one, *one, "run_stop"]
    assert added[-1]["metadata"]["status"] == "aborted", "the benchmark's own targets are not reached"
    for step in (2, 4):
        said = {line["metadata"]["metric"]: line["value"] for line in added if is_score(line, step)}
        assert said == dict(zip(("FID", "CLIP"), evaluation.of_step(step), strict=True))
    assert "scores of 4 images, where it says 6" in evaluation.run(num_images=4)
    assert f"{evaluation.log}: aborted" in evaluation.run(num_images=6)
    assert evaluation.log.read_text() == log


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
