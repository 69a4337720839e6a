"""A training that meets inf or nan ends with its last good state, wherever they come from."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from ldm.callback.checkpoints import Checkpoints, newest, saved
from ldm.callback.power_ema import PowerEMA
from ldm.callback.signals import DIVERGED
from ldm.checkpoint import save
from ldm.ema.snapshot import read_snapshots
from ldm.optim.divergence import GRADIENT, LOSS, NEVER, WEIGHTS, Diverged, Watch, all_finite, code_of, fault_of
from tests.callback import trainer
from tests.ranks import on_two_ranks

INF, NAN = float("inf"), float("nan")


class Task(pl.LightningModule):
    """Its loss, gradient or weights break in an optimiser step, counted from 1, of two batches each."""

    def __init__(self, where=LOSS, step=5, rank=0):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.watch = Watch()
        self.where, self.step, self.rank = where, step, rank
        self.validated = []

    def breaks(self, what):
        mine = self.trainer.global_rank == self.rank
        return what == self.where and mine and self.global_step + 1 == self.step

    def training_step(self, batch, batch_idx):
        loss = self.model(batch[:, None]).square().mean()
        if self.breaks(LOSS) and batch_idx % 2:
            loss = loss * INF
        self.watch.see(self.global_step, LOSS, loss)
        return loss

    def configure_gradient_clipping(self, optimizer, *_, **__):
        if self.breaks(GRADIENT):
            self.model.weight.grad *= NAN
        self.watch.see(self.global_step, GRADIENT, self.model.weight.grad.norm())

    def optimizer_step(self, *arguments, **options):
        breaks = self.breaks(WEIGHTS)
        super().optimizer_step(*arguments, **options)
        if breaks:
            self.model.weight.data.fill_(INF)

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.global_step)
        assert all_finite(self.parameters())
        self.log("val/score", -float(self.global_step), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(folder, task, *callbacks, **options):
    options = {"every_n_steps": 2, "best": "val/score", "watch": task.watch, **options}
    trainer.fit(
        task, [*callbacks, Checkpoints(folder, **options)], steps=10, validate_every=8, batches=8, ckpt=newest(folder)
    )


@pytest.mark.parametrize("where", [LOSS, GRADIENT])
def test_it_ends_in_the_step_itself_and_keeps_the_good_files(tmp_path, where):
    with pytest.raises(
        Diverged, match=f"diverged at step 5: {where} is inf or nan; the last good state is .*00000004.ckpt"
    ):
        fit(tmp_path, Task(where), keep=1)
    assert [path.name for path in saved(tmp_path)] == ["step-00000004.ckpt"]
    for path in (tmp_path / "best.ckpt", newest(tmp_path)):
        assert all_finite(torch.load(path, weights_only=True)["state_dict"].values())
    with pytest.raises(Diverged, match="at step 5"):
        fit(tmp_path, Task(where), keep=1)


@pytest.mark.parametrize("step", [4, 6])
def test_weights_that_broke_are_seen_before_they_are_written_or_validated(tmp_path, step):
    """Though the loss, computed before, was finite."""
    task = Task(WEIGHTS, step)
    with pytest.raises(Diverged, match=f"at step {step}: a weight is inf or nan"):
        fit(tmp_path, task, every_n_steps=6)
    assert not saved(tmp_path)
    assert set(task.validated) <= {4}


def test_without_a_checkpoint_from_before_it_says_so(tmp_path):
    with pytest.raises(Diverged, match="at step 1: the loss is inf or nan; there is no checkpoint from before"):
        fit(tmp_path, Task(step=1))
    assert not list(tmp_path.iterdir())


def test_snapshots_of_averages_stay_finite(tmp_path):
    ema = PowerEMA(tmp_path / "ema", [0.1], every_n_steps=1)
    with pytest.raises(Diverged):
        fit(tmp_path, Task(step=4), ema)
    found = read_snapshots(tmp_path / "ema")
    assert [snapshot.step for snapshot in found] == [1, 2, 3]
    assert all(all_finite(tensor for _, tensor in snapshot.tensors()) for snapshot in found)


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from(tmp_path):
    fit(tmp_path, Task(step=99))
    path = newest(tmp_path)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.weight"].fill_(NAN)
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"{path} holds weights that are not finite.*delete it"):
        fit(tmp_path, Task(step=99))


def test_a_model_that_is_not_finite_is_never_written(tmp_path):
    model = torch.nn.BatchNorm1d(2)
    save(tmp_path / "model.safetensors", model, {})
    for tensor, value in ((model.weight, INF), (model.running_mean, NAN)):
        tensor.data[1] = value
        before = (tmp_path / "model.safetensors").read_bytes()
        with pytest.raises(ValueError, match="of the trained model holds"):
            save(tmp_path / "model.safetensors", model, {})
        assert (tmp_path / "model.safetensors").read_bytes() == before
        tensor.data[1] = 1.0


def test_all_ranks_end_together_though_one_alone_has_seen_it(tmp_path):
    """The rank that saw the loss is not the first; that one knows one step later, by what ranks tell each other anyway."""

    def work(rank):
        task = Task(step=3, rank=1)
        first = pl.Trainer(
            accelerator="cpu",
            devices=2,
            strategy="ddp",
            max_steps=10,
            accumulate_grad_batches=2,
            enable_model_summary=False,
            logger=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
            callbacks=[Checkpoints(tmp_path, every_n_steps=2, watch=task.watch)],
        )
        try:
            first.fit(task, DataLoader(torch.arange(8.0), 1), DataLoader(torch.arange(1.0), 1))
        except Diverged as error:
            print(f"{error} -- after {first.global_step} steps")

    results = on_two_ranks(work)
    for code, text in results:
        assert code == 0, text
        assert "diverged at step 3: the loss is inf or nan; the last good state is" in text
        assert "-- after 4 steps" in text
    assert [path.name for path in saved(tmp_path)] == ["step-00000002.ckpt"]


def test_the_first_fault_is_remembered_with_its_step():
    watch = Watch()
    assert not watch.noticed()
    assert fault_of(watch.code()) is None
    for step, what, value in ((0, LOSS, 1.0), (7, GRADIENT, NAN), (7, LOSS, INF), (9, LOSS, NAN)):
        watch.see(step, what, torch.tensor(value, requires_grad=True))
        assert watch.noticed() == (step >= 7)
    assert fault_of(watch.code()) == (8, LOSS), "within a step the loss comes first"
    assert code_of(10**9, WEIGHTS) < NEVER
    assert DIVERGED == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nobody_waits():
    watch = Watch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1000):
            watch.see(step, LOSS, torch.full((), 1.0 if step < 500 else NAN, device="cuda"))
            watch.noticed()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert watch.noticed() or watch.noticed()
    assert fault_of(watch.code()) == (501, LOSS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_values_are_looked_at(dtype):
    tensors = [torch.ones(3, dtype=dtype), torch.ones((), dtype=dtype), torch.arange(3), torch.ones(0)]
    assert all_finite(tensors)
    assert all_finite([])
    for value in (NAN, INF, -INF):
        broken = torch.ones(2, 2, dtype=dtype)
        broken[1, 0] = value
        assert not all_finite([*tensors, broken])
