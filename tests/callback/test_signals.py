"""Signals are remembered from the start of a run to its end, whatever Lightning is doing, and answered by all ranks."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from ldm.callback.checkpoints import Checkpoints, newest, step_of
from ldm.callback.signals import GO_ON, SAVE, STOP, Preempted, Signals
from tests.ranks import on_two_ranks


class Task(pl.LightningModule):
    """Sends a signal to its process in the second batch of the last validation, if it is of that rank."""

    def __init__(self, number=signal.SIGTERM, rank=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.number, self.rank = number, rank
        self.handlers = set()
        self.batches = 0

    def look(self):
        handler = signal.getsignal(signal.SIGTERM)
        self.handlers.add(getattr(handler, "__qualname__", str(handler)))

    def train_dataloader(self):
        """Asked for after Lightning would have set its own handlers."""
        self.look()
        return DataLoader(torch.arange(8.0), 1)

    def val_dataloader(self):
        """One more batch on the first rank than on the second."""
        self.look()
        return DataLoader(torch.arange(4.0 - self.trainer.global_rank), 1)

    def training_step(self, batch, batch_idx):
        self.look()
        return (self.weight - batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.look()
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.batches += 1
            if batch_idx == 1 and self.trainer.global_rank == self.rank:
                os.kill(os.getpid(), self.number)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def run(folder, task, **place):
    with Signals() as signals:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=4,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            callbacks=[Checkpoints(folder, every_n_steps=3, signals=signals)],
            **place,
        )
        trainer.fit(task, ckpt_path=newest(folder), weights_only=True)
        task.look()
        trainer.validate(task, verbose=False)


def test_term_in_the_last_validation_ends_after_the_batch_with_everything_saved(tmp_path):
    task = Task()
    with pytest.raises(Preempted, match="during the last validation; all that was trained is saved"):
        run(tmp_path, task)
    assert task.batches == 2
    assert step_of(newest(tmp_path)) == 4, "the last step, which is no multiple of 3"
    assert task.handlers == {"Signals._ask"}, "Lightning never sets its own"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = Task(signal.SIGUSR1)
    run(tmp_path, again)
    assert again.batches == 4, "the same command goes on with the validation, and has nothing to save there"


@pytest.mark.parametrize("rank", [0, 1])
def test_both_ranks_end_whichever_gets_the_signal(tmp_path, rank):
    def work(_):
        task = Task(rank=rank)
        try:
            run(tmp_path, task, devices=2, strategy="ddp")
        except Preempted as ended:
            print(f"{ended} -- {task.batches} batches")

    for code, text in on_two_ranks(work):
        assert code == 0, text
        assert "stopped by SIGTERM during the last validation" in text
        assert "-- 2 batches" in text


def test_ranks_with_different_numbers_of_batches_do_not_wait_for_each_other(tmp_path):
    results = on_two_ranks(lambda rank: run(tmp_path, Task(rank=2), devices=2, strategy="ddp"))
    assert [code for code, _ in results] == [0, 0], results


def test_what_was_asked_is_taken_once_and_the_strongest_counts():
    with Signals() as signals:
        assert signals.take() == GO_ON
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert (signals.take(), signals.take()) == (STOP, GO_ON)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.take() == SAVE
