"""Several ranks save and end together after the same step, and no step waits for a device or for another rank."""

import os
import signal
import time

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ldm.callback.agreement import Agreement
from ldm.callback.checkpoints import Checkpoints, saved, step_of
from ldm.callback.signals import Preempted, Signals
from tests.ranks import on_two_ranks


class Task(pl.LightningModule):
    """Does something at the end of an optimiser step, before its callbacks."""

    def __init__(self, at=None, first=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.at = at or {}
        self.first = first or {}

    def training_step(self, batch, batch_idx):
        if batch_idx % 2 == 0:
            self.first.get(self.global_step + 1, lambda: None)()
        return (self.weight - batch).square().mean()

    def optimizer_step(self, *arguments, **options):
        super().optimizer_step(*arguments, **options)
        self.at.get(self.global_step + 1, lambda: None)()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, task, **options):
    """Train for 10 steps of two batches on two ranks; print the step at which this rank ended."""
    with Signals() as signals:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_steps=10,
            accumulate_grad_batches=2,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            check_val_every_n_epoch=None,
            val_check_interval=12,
            callbacks=[Checkpoints(folder, every_n_steps=4, keep=None, signals=signals)],
            **options,
        )
        try:
            trainer.fit(task, DataLoader(torch.arange(32.0), 1), DataLoader(torch.arange(1.0), 1))
            print("ended", trainer.global_step)
        except Preempted as ended:
            print(f"ended {trainer.global_step}: {ended}")


def kill(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("rank", [0, 1])
def test_no_step_waits_for_a_rank_that_is_late(tmp_path, rank):
    """A rank stays at the end of step 2 until the other is in step 3."""
    there = tmp_path / "there"

    def late():
        until = time.monotonic() + 20
        while not there.exists():
            assert time.monotonic() < until, "the other rank waits"
            time.sleep(0.01)

    def work(mine):
        fit(tmp_path / "run", Task({2: late}) if mine == rank else Task(first={3: there.touch}))

    for code, text in on_two_ranks(work):
        assert code == 0, text
        assert "ended 10" in text


WHEN = {1: 2, 4: 4, 6: 6, 10: 10}
"""The step in which one rank gets a signal, and that after which all answer: it is the next one, but at once where
a file is due (4), before a validation (6) and at the last step (10)."""


@pytest.mark.parametrize(("signalled", "answered"), WHEN.items())
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_is_answered_by_both_after_the_same_step(tmp_path, signalled, answered, number):
    results = on_two_ranks(lambda rank: fit(tmp_path, Task({signalled: kill(number)} if rank == 1 else {})))
    for code, text in results:
        assert code == 0, text
        if number == signal.SIGTERM:
            assert f"ended {answered}: stopped by SIGTERM at step {answered}, which is saved" in text
        else:
            assert "ended 10\n" in text
    steps = [step_of(path) for path in saved(tmp_path)]
    last = answered if number == signal.SIGTERM else 10
    assert steps == sorted(step for step in {4, 8, 10, answered} if step <= last)


def test_a_signal_in_a_last_step_that_nobody_foresaw_is_answered(tmp_path):
    """Training ends after step 5 by another callback; the signal came in that step."""

    def work(rank):
        def last():
            task.trainer.should_stop = True
            if rank == 1:
                kill(signal.SIGTERM)()

        task = Task({5: last})
        fit(tmp_path, task)

    for code, text in on_two_ranks(work):
        assert code == 0, text
        assert "ended 5: stopped by SIGTERM at step 5, which is saved" in text
    assert [step_of(path) for path in saved(tmp_path)] == [4, 5]


class Place:
    """The parts of a trainer that an agreement needs."""

    def __init__(self, device="cpu", world_size=2):
        self.world_size = world_size
        self.strategy = self
        self.root_device = torch.device(device)


def test_each_request_is_known_to_all_at_the_next_call_and_once():
    def work(rank):
        dist.init_process_group("gloo", rank=rank, world_size=2)
        agreement = Agreement()
        asked = [[0, 1, 0, 0, 2, 0], [0, 0, 3, 0, 0, 0]][rank]
        print([agreement.exchange(Place(), mine, at_once=number == 4) for number, mine in enumerate(asked)])
        print(agreement.outstanding(), agreement.outstanding())

    for code, text in on_two_ranks(work):
        assert (code, text) == (0, "[0, 0, 1, 3, 2, 0]\n0 0\n")


def test_a_single_process_answers_itself_at_once():
    agreement, place = Agreement(), Place(world_size=1)
    assert [agreement.exchange(place, mine) for mine in (0, 2, 0)] == [0, 2, 0]
    assert agreement.outstanding() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nobody_waits_for_what_the_device_has_yet_to_do(tmp_path):
    dist.init_process_group("nccl", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        agreement, place = Agreement(), Place("cuda")
        agreement.exchange(place, 0, at_once=True)
        torch.cuda.set_sync_debug_mode("error")
        found = []
        for step in range(5):
            torch.cuda._sleep(10**8)
            found.append(agreement.exchange(place, 2 if step == 1 else 0))
        assert not torch.cuda.current_stream().query(), "the last step still runs"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        dist.destroy_process_group()
    assert found == [0, 0, 2, 0, 0]
