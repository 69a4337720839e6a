"""Two processes on one machine, as those of two machines: with one run folder, or with two."""

import os
import signal
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from ldm.callback.checkpoints import Checkpoints
from ldm.conditioner.transformer import TransformerConditioner
from ldm.processes import ranks
from tests.ranks import on_two_ranks
from tests.training.stages import composed, stages


def connected():
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    ranks.start(trainer, "ddp")
    return trainer


def test_folders_that_are_not_shared_are_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "PATIENCE", 0.5)
    (first, text), (second, other) = on_two_ranks(
        lambda rank: ranks.check_shared(connected(), tmp_path / str(rank) / "runs" / "x")
    )
    assert "ValueError: 1 of 2 processes do not see the run folder of the first" in text
    assert "paths.runs_dir=FOLDER" in text
    assert (first, second) == (1, 0)
    assert "Error" not in other, "said once"
    assert not list(tmp_path.iterdir())


def test_a_shared_folder_is_made_once_and_nothing_stays_in_it(tmp_path):
    results = on_two_ranks(lambda rank: ranks.check_shared(connected(), tmp_path / "runs" / "x"))
    assert [code for code, _ in results] == [0, 0], results
    assert not list((tmp_path / "runs" / "x").iterdir())


def test_what_differs_between_processes_is_named_by_each(tmp_path):
    (first, text), (_, other) = on_two_ranks(
        lambda rank: ranks.check_same(connected(), "the configuration", {"seed": rank, "steps": 5})
    )
    assert first == 1
    assert "the configuration is not the same in 1 of 2 processes as in the first" in text
    assert "of process 1:\n  seed: 0 -> 1" in other


def test_all_go_on_from_the_file_that_the_first_has_chosen(tmp_path):
    """Also one that sees it late."""
    file = tmp_path / "step-00000005.ckpt"

    def work(rank):
        trainer = connected()
        if rank == 0:
            file.touch()
        assert ranks.agreed_file(trainer, file if rank == 0 else None) == file
        assert ranks.agreed_file(trainer, None if rank == 0 else file) is None

    results = on_two_ranks(work)
    assert [code for code, _ in results] == [0, 0], results


def test_a_chosen_file_that_does_not_come_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "PATIENCE", 0.3)
    (_, text), _ = on_two_ranks(lambda rank: ranks.agreed_file(connected(), tmp_path / "gone.ckpt"))
    assert "ValueError: 2 of 2 processes do not see" in text


def test_a_file_may_appear_late(tmp_path):
    if (child := os.fork()) == 0:
        time.sleep(0.5)
        (tmp_path / "late").touch()
        os._exit(0)
    assert ranks.appears(tmp_path / "late")
    os.waitpid(child, 0)


def test_one_process_agrees_with_itself(tmp_path):
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    ranks.start(trainer, "auto")
    ranks.check_shared(trainer, tmp_path / "x")
    ranks.check_same(trainer, "all", {"a": 1})
    assert ranks.agreed_file(trainer, tmp_path) == tmp_path


def test_processes_that_start_in_the_middle_are_refused():
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="trainer.strategy=ddp_spawn starts processes in a way"):
        ranks.start(trainer, "ddp_spawn")


def test_processes_that_were_started_are_killed(tmp_path, monkeypatch):
    """By the launcher, whose class is private to Lightning; in a fork, since Lightning's observer kills who has lost a child."""
    (tmp_path / "sleeps.py").write_text("import time; time.sleep(4)")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sleeps.py")])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    if (child := os.fork()) == 0:
        code = 1
        with suppress(BaseException):
            trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
            trainer.strategy.launcher.launch(lambda: None, trainer=trainer)
            ranks.end(trainer)
            _, status = os.wait()
            code = int(os.waitstatus_to_exitcode(status) != -signal.SIGKILL)
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_nobody_trains_from_another_step_or_place_in_the_data(tmp_path):
    def work(rank):
        trainer = connected()
        trainer.datamodule = SimpleNamespace(position=5)
        saving = Checkpoints(tmp_path, every_n_steps=1)
        saving._steps.made = 5 * (1 - rank)
        saving.on_fit_start(trainer, torch.nn.Linear(1, 1))

    (first, text), (second, other) = on_two_ranks(work)
    assert (first, second) == (1, 0)
    assert "ValueError: the place to go on from is not the same in 1 of 2 processes as in the first" in text
    assert "step: 5 -> 0" in other


@pytest.mark.parametrize("rank", ["0", "1"])
def test_captions_are_read_by_the_first_process_alone(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", rank)
    reader = TransformerConditioner(width=8, vocabulary=300, depth=1, heads=1, head_width=8, max_tokens=8)
    read = []
    captions = [(text, {"caption": [text]}) for text in ("a red heart", "a blue cat")]
    checks = []
    data = SimpleNamespace(
        encoding={}, samples=lambda fields, limit: read.append((fields, limit)) or captions, add_check=checks.append
    )
    config = composed("experiment=txt2img", "trainer=cpu", "stage.diffusion.captions_for_vocabulary=7")
    (tmp_path / "diffusion").mkdir()
    stage = stages(config, tmp_path)["diffusion"]
    stage._task = SimpleNamespace(reader=reader, model=SimpleNamespace(conditioner=reader))
    stage.prepare(data)
    assert checks == [reader.check], "on every process"
    assert read == ([(("caption",), 7)] if rank == "0" else [])
    assert (reader.tokenizer is None) == (rank == "1"), "the others get it before training"
