"""MLPerf's log of a training: what it says, once, whatever happens to the process; and what evaluation adds."""

import json
import sys

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.config import build
from ldm.logger.mllog import MLLog
from ldm.logger.mllog_file import LOG_FILE
from ldm.logger.offline_evaluation import append_evaluation, append_run_stop
from ldm.optim.scheduler import ConstantWithWarmup
from tests.configs import composed


class Numbers(DataLoader):
    samples = 50


class Data(pl.LightningDataModule):
    """Twelve images an optimiser step."""

    images_per_step = 12

    def train_dataloader(self):
        return Numbers(torch.arange(50.0), 1)


class Line(pl.LightningModule):
    gradient_clip_val = None

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scheduler = build(
            {"_target_": "ldm.optim.scheduler.ConstantWithWarmup", "_partial_": True, "warmup_steps": 7}
        )
        assert self.scheduler.func is ConstantWithWarmup

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=12 * 1.1e-7, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def training_step(self, batch, index):
        loss = (self.weight - batch).square().mean()
        self.log("train/loss", loss)
        self.log("train/lost", torch.tensor(float("nan")))
        return loss


def logger(folder, **options):
    settings = {**composed("train", "experiment=mlperf_sd", "logger=mllog").logger.mllog, "seed": 3, **options}
    return MLLog(folder, **{name: value for name, value in settings.items() if not name.startswith("_")})


def train(folder, steps, *, ckpt=None, **options):
    """Train with two batches in a step, and blocks of two steps; return the checkpoint."""
    log = logger(folder, **{"images_between_evaluations": 20, **options})
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=log,
        callbacks=[log],
        accumulate_grad_batches=2,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(), datamodule=Data(), ckpt_path=ckpt, weights_only=True)
    path = folder / f"{steps}.ckpt"
    trainer.save_checkpoint(path)
    return path


def read(folder):
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in (folder / LOG_FILE).read_text().splitlines()]


def blocks(folder):
    return [(line["key"][6:], line["metadata"]["step_num"]) for line in read(folder) if line["key"].startswith("block")]


def count(folder, key):
    return sum(line["key"] == key for line in read(folder))


def test_hyperparameters_are_those_of_the_optimizer(tmp_path):
    train(tmp_path, 3)
    said = {line["key"]: line["value"] for line in read(tmp_path)}
    assert said["global_batch_size"] == 12
    assert said["gradient_accumulation_steps"] == 2
    assert said["train_samples"] == 50
    assert said["seed"] == 3
    assert (said["opt_name"], said["opt_base_learning_rate"]) == ("adamw", 1.1e-7), "not 1.0999999999999999e-07"
    assert (said["opt_adamw_beta_1"], said["opt_adamw_beta_2"]) == (0.8, 0.95)
    assert (said["opt_adamw_epsilon"], said["opt_adamw_weight_decay"]) == (1e-6, 0.3)
    assert said["opt_learning_rate_warmup_steps"] == 7
    assert "opt_gradient_clip_norm" not in said
    stats = [line for line in read(tmp_path) if line["key"] == "tracked_stats"]
    assert [line["metadata"]["step_num"] for line in stats] == [0, 1, 2]
    assert all("train/loss" in line["value"] and "train/lost" not in line["value"] for line in stats)


def test_times_go_forward_and_begin_when_the_logger_is_made(tmp_path):
    train(tmp_path, 3)
    times = {line["key"]: line["time_ms"] for line in read(tmp_path)}
    keys = ["init_start", "cache_clear", "init_stop", "run_start", "block_start", "block_stop"]
    assert sorted(keys, key=times.get) == keys


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [("start", 0), ("stop", 1)]),
        (2, [("start", 0), ("stop", 2)]),
        (5, [("start", 0), ("stop", 2), ("start", 2), ("stop", 4), ("start", 4), ("stop", 5)]),
    ],
)
def test_a_block_ends_at_each_point_of_evaluation_and_at_the_end(tmp_path, steps, expected):
    train(tmp_path, steps)
    assert blocks(tmp_path) == expected


def test_a_run_that_goes_on_says_nothing_twice(tmp_path):
    ckpt = train(tmp_path, 2)
    train(tmp_path, 5, ckpt=ckpt)
    assert blocks(tmp_path) == [("start", 0), ("stop", 2), ("start", 2), ("stop", 4), ("start", 4), ("stop", 5)]
    for key in ("init_start", "init_stop", "run_start", "opt_name", "global_batch_size", "submission_benchmark"):
        assert count(tmp_path, key) == 1, key


def test_a_run_that_was_killed_goes_on_where_its_log_broke_off(tmp_path):
    """The process was killed while it wrote, after the checkpoint of step 2, of whose block the end was not written."""
    ckpt = train(tmp_path, 2)
    log = tmp_path / LOG_FILE
    text = log.read_text()
    at = text.index("\n", text.index("block_start")) + 1
    log.write_text(text[: at + 30])
    train(tmp_path, 4, ckpt=ckpt)
    assert blocks(tmp_path) == [("start", 0), ("stop", 2), ("start", 2), ("stop", 4)]


@pytest.mark.parametrize("key", ["init_start", "opt_name", "init_stop", "run_start"])
def test_a_run_that_was_killed_at_its_beginning_completes_it(tmp_path, key):
    train(tmp_path, 2)
    log = tmp_path / LOG_FILE
    text = log.read_text()
    whole = [line["key"] for line in read(tmp_path) if line["key"] != "tracked_stats"]
    log.write_text(text[: text.index(f'"{key}"')])
    train(tmp_path, 2)
    assert [line["key"] for line in read(tmp_path) if line["key"] != "tracked_stats"] == whole


def test_steps_that_were_lost_and_made_again_begin_a_block_of_their_own(tmp_path):
    ckpt = train(tmp_path, 1)
    (tmp_path / LOG_FILE).unlink()
    train(tmp_path, 4)
    train(tmp_path, 4, ckpt=ckpt)
    assert blocks(tmp_path)[4:] == [("start", 1), ("stop", 2), ("start", 2), ("stop", 4)]


def test_another_process_than_the_first_writes_nothing(tmp_path, monkeypatch):
    from pytorch_lightning.utilities import rank_zero_only

    log = logger(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log._batch = 1
    log.log_metrics({"loss": 1.0}, 3)
    log.on_train_start(None, None)
    log.on_train_batch_end(None, None, None, None, 0)
    log.on_train_end(None, None)
    assert not list(tmp_path.iterdir())


def evaluate(folder, step, fid, clip):
    return append_evaluation(folder / LOG_FILE, step=step, fid=fid, clip=clip, began=100.0, ended=200.0)


def stops(folder):
    """Return how the log ended, and the step whose training ended then."""
    trained = {line["time_ms"]: line["metadata"]["step_num"] for line in read(folder) if line["key"] == "block_stop"}
    found = [line for line in read(folder) if line["key"] == "run_stop"]
    return [(line["metadata"]["status"], trained[line["time_ms"]]) for line in found]


def test_evaluations_are_added_once_and_end_the_run_when_the_first_of_them_passed(tmp_path):
    train(tmp_path, 6)
    before = (tmp_path / LOG_FILE).read_text()
    assert not evaluate(tmp_path, 2, 90.1, 0.2)
    assert not evaluate(tmp_path, 6, 50.0, 0.149)
    assert append_run_stop(tmp_path / LOG_FILE) is None, "step 4 is not evaluated yet"
    assert evaluate(tmp_path, 4, 90.0, 0.15)
    for _ in range(2):
        assert append_run_stop(tmp_path / LOG_FILE) == "success"
        assert evaluate(tmp_path, 4, 90.0, 0.15)
    text = (tmp_path / LOG_FILE).read_text()
    assert text.startswith(before)
    scores = {
        (line["metadata"]["samples_count"], line["metadata"]["metric"]): (line["value"], line["time_ms"])
        for line in read(tmp_path)
        if line["key"] == "eval_accuracy"
    }
    assert scores == {
        (24, "FID"): (90.1, 200_000), (24, "CLIP"): (0.2, 200_000),
        (48, "FID"): (90.0, 200_000), (48, "CLIP"): (0.15, 200_000),
        (72, "FID"): (50.0, 200_000), (72, "CLIP"): (0.149, 200_000),
    }  # fmt: skip
    assert [count(tmp_path, key) for key in ("eval_start", "eval_accuracy", "eval_stop")] == [3, 6, 3]
    assert stops(tmp_path) == [("success", 4)], "offline evaluation does not count"


def test_a_log_that_ended_without_success_ends_again_with_it_when_the_run_is_made_longer(tmp_path):
    ckpt = train(tmp_path, 4)
    for step in (2, 4):
        evaluate(tmp_path, step, 90.1, 0.2)
    for _ in range(2):
        assert append_run_stop(tmp_path / LOG_FILE) == "aborted"
    train(tmp_path, 6, ckpt=ckpt)
    evaluate(tmp_path, 6, 90.0, 0.2)
    assert append_run_stop(tmp_path / LOG_FILE) == "success"
    assert stops(tmp_path) == [("aborted", 4), ("success", 6)]


def test_scores_that_differ_from_those_in_the_log_are_refused(tmp_path):
    train(tmp_path, 2)
    evaluate(tmp_path, 2, 80.0, 0.2)
    before = (tmp_path / LOG_FILE).read_text()
    with pytest.raises(ValueError, match="holds other scores of step 2 already: {'FID': 80.0}, now"):
        evaluate(tmp_path, 2, 81.0, 0.2)
    assert (tmp_path / LOG_FILE).read_text() == before


def test_an_evaluation_that_was_killed_while_it_wrote_is_completed(tmp_path):
    train(tmp_path, 2)
    evaluate(tmp_path, 2, 80.0, 0.2)
    log = tmp_path / LOG_FILE
    text = log.read_text()
    log.write_text(text[: text.index('"CLIP"')])
    evaluate(tmp_path, 2, 80.0, 0.2)
    scores = [line["metadata"]["metric"] for line in read(tmp_path) if line["key"] == "eval_accuracy"]
    assert scores == ["FID", "CLIP"]
    assert append_run_stop(log) == "success"


def test_what_is_no_log_of_a_training_is_refused(tmp_path):
    log = tmp_path / LOG_FILE
    for use in (append_run_stop, lambda _: evaluate(tmp_path, 1, 1.0, 1.0)):
        log.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError, match="no log .*; train with logger=mllog"):
            use(log)
        log.write_text("hello\n")
        with pytest.raises(ValueError, match="is not the log of a training: it does not say global_batch_size"):
            use(log)
        log.write_text("a file of somebody's, without a last line end")
        with pytest.raises(ValueError, match="is not the log of a training"):
            use(log)
        assert log.read_text() == "a file of somebody's, without a last line end"
        log.write_text("hello\n:::MLLOG {\n")
        with pytest.raises(ValueError, match="line 2 cannot be read"):
            use(log)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlperf_logging.mllog.mllog", None)
    with pytest.raises(ImportError, match=r'needs mlperf-logging; type pip install -e "\.\[mlperf\]"'):
        logger(tmp_path)
