"""Averages of the weights of a random walk, kept by Lightning."""

import pytest
import pytorch_lightning as pl
import torch

from ldm.callback.checkpoints import Checkpoints
from ldm.callback.ema import EMA
from ldm.callback.power_ema import PowerEMA
from ldm.ema.power_function import gamma_of
from ldm.ema.snapshot import read_snapshots
from tests.callback import trainer

STEPS = 25


class Walk(pl.LightningModule):
    """Weights that move by random steps, one kind of them frozen; `path` holds them after each."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(4, 3)
        self.model.bias.requires_grad_(False)
        self.path = []

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(self.trainer.fit_loop.total_batch_idx)
        return (self.model.weight * torch.randn(3, 4, generator=generator)).sum()

    def optimizer_step(self, *arguments, **options):
        super().optimizer_step(*arguments, **options)
        self.path.append(self.model.weight.detach().clone())

    def validation_step(self, batch, batch_idx):
        assert not torch.equal(self.model.weight, self.path[-1]), "validation sees the average"

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


class Unlucky(pl.Callback):
    """Ends training at a step, after its checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ConnectionError("out of luck")


def fit(folder, *callbacks, ckpt=None, **options):
    torch.manual_seed(0)
    walk, callback = Walk(), PowerEMA(folder / "ema", **{"every_n_steps": 10, **options})
    around = [callback, EMA(0.9), *callbacks, Checkpoints(folder, every_n_steps=8)]
    trainer.fit(walk, around, steps=STEPS, validate_every=6, batches=60, ckpt=ckpt)
    return walk, callback


def average(path, length):
    """The weighted sum over a path."""
    weight = (torch.arange(len(path) + 1, dtype=torch.float64) / len(path)).pow(gamma_of(length) + 1).diff()
    return torch.einsum("t, t... -> ...", weight, torch.stack(path).double()).float()


def snapshots(folder):
    return {(found.step, found.length): dict(found.tensors()) for found in read_snapshots(folder / "ema")}


def test_snapshots_are_weighted_sums_over_the_path_of_trained_weights(tmp_path):
    """Over optimiser steps, not batches; and not of what validation sees."""
    walk, _ = fit(tmp_path, lengths=[0.05, 0.1, 0.25])
    assert len(walk.path) == STEPS
    found = snapshots(tmp_path)
    assert list(found) == [(step, length) for step in (10, 20, 25) for length in (0.05, 0.1, 0.25)]
    for (step, length), weights in found.items():
        assert list(weights) == ["weight"], "what is frozen is not averaged"
        torch.testing.assert_close(weights["weight"], average(walk.path[:step], length), atol=1e-5, rtol=1e-5)


def test_a_run_that_goes_on_writes_the_same_snapshots(tmp_path):
    fit(tmp_path / "whole")
    with pytest.raises(ConnectionError):
        fit(tmp_path / "halves", Unlucky(19))
    fit(tmp_path / "halves", ckpt=tmp_path / "halves" / "step-00000016.ckpt")
    whole, halves = snapshots(tmp_path / "whole"), snapshots(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[place]["weight"], halves[place]["weight"]) for place in whole)


def test_averages_are_kept_from_the_first_step_or_not_at_all(tmp_path):
    _, callback = fit(tmp_path, lengths=[])
    assert not (tmp_path / "ema").exists()
    assert callback.state_dict() == {}
    with pytest.raises(
        ValueError, match="goes on from step 24 with averages of lengths .0.1., but its checkpoint has .., "
    ):
        fit(tmp_path, lengths=[0.1], ckpt=tmp_path / "step-00000024.ckpt")


def test_snapshots_may_be_rounded_while_averages_are_not(tmp_path):
    _, callback = fit(tmp_path, dtype="float16")
    for (_, length), weights in list(snapshots(tmp_path).items())[-2:]:
        exact = callback.averages[length]["weight"]
        assert exact.dtype == torch.float32
        assert torch.equal(weights["weight"], exact.half().float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [0.1, 0.3]}, "lies between 0 and 0.28867"),
        ({"lengths": [0.1, 0.1]}, r"differ from each other; got \[0.1, 0.1\]"),
        ({"every_n_steps": 0}, "every 1 or more steps; got 0"),
        ({"dtype": "bfloat16"}, "one of float32, float16; got 'bfloat16'"),
    ],
)
def test_mistakes_are_found_before_training(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        PowerEMA(tmp_path, **options)
