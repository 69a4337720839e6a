from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from ldm.callback.checkpoints import Checkpoints
from ldm.callback.ema import EMA
from ldm.callback.randomness import mix
from tests.callback import trainer


def test_average_warms_up_to_its_decay():
    ema = EMA(0.9)
    averaged, current = [torch.zeros(3)], [torch.ones(3)]
    expected = 0.0
    for count in range(1, 300):
        decay = min(0.9, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay)
        ema._average(averaged, current, torch.tensor(count))
        assert averaged[0][0] == pytest.approx(expected, abs=1e-5)
    assert expected > 0.999
    assert torch.equal(current[0], torch.ones(3))


def test_frozen_weights_stay_as_they_are_bitwise():
    weight = torch.randn(1000)
    averaged = [weight.clone()]
    for count in range(1, 50):
        EMA(0.99)._average(averaged, [weight], count)
    assert torch.equal(averaged[0], weight)


def test_decay_must_be_a_share():
    with pytest.raises(ValueError, match="decay"):
        EMA(1.0)


def test_mixed_seeds_differ_whatever_number_changes():
    seeds = {mix(seed, rank, step) for seed in range(10) for rank in range(10) for step in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


class Walk(pl.LightningModule):
    """Weights of which some are frozen, moved by random steps; the first half of each step's batches do not step."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)
        self.net.bias.requires_grad_(False)
        self.seen = []

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(self.trainer.fit_loop.total_batch_idx)
        return (self.net(torch.randn(4, 3, generator=generator)) * torch.randn(2, generator=generator)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen.append(self.net.weight.clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1.0)


class Reference(pl.Callback):
    """Torch's own averages, of the same weights."""

    def __init__(self, decay):
        def average(averaged, current, count):
            share = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
            for average, weight in zip(averaged, current, strict=True):
                average.lerp_(weight, share)

        self.average, self.model, self.step = average, None, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.model = self.model or torch.optim.swa_utils.AveragedModel(pl_module.net, multi_avg_fn=self.average)
            self.model.update_parameters(pl_module.net)


def walk(folder, *, steps=12, ckpt=None):
    torch.manual_seed(0)
    task, ema, reference = Walk(), EMA(0.9), Reference(0.9)
    saving = Checkpoints(folder, every_n_steps=5, keep=9)
    trainer.fit(task, [reference, ema, saving], steps=steps, validate_every=8, batches=8, ckpt=ckpt)
    return task, ema, reference


def test_it_is_torchs_average_of_what_is_trained(tmp_path):
    task, ema, reference = walk(tmp_path)
    last = task.net.weight.clone()
    assert list(ema._averages) == ["net.weight"]
    ema.apply()
    assert torch.equal(task.net.weight, reference.model.module.weight)
    assert not torch.equal(task.net.weight, last)
    assert len(task.seen) == 3
    assert not any(torch.equal(weight, last) for weight in task.seen), "validation sees averages"


def test_a_run_that_goes_on_averages_as_if_it_had_not_stopped(tmp_path):
    whole, ema, _ = walk(tmp_path / "whole")
    walk(tmp_path / "halves", steps=5)
    again, other, _ = walk(tmp_path / "halves", ckpt=tmp_path / "halves" / "step-00000005.ckpt")
    assert torch.equal(again.net.weight, whole.net.weight)
    for average in (ema, other):
        average.apply()
    assert torch.equal(again.net.weight, whole.net.weight)


def test_checkpoints_of_older_versions_go_on(tmp_path):
    """In which averages and weights held everything, and the count was a tensor."""
    walk(tmp_path, steps=5)
    path = tmp_path / "step-00000005.ckpt"
    content = torch.load(path, weights_only=True)
    frozen = {"net.bias": content["state_dict"]["net.bias"]}
    content["current_model_state"] |= frozen
    content["averaging_state"] = {"n_averaged": torch.tensor(content["averaging_state"]["n_averaged"])}
    torch.save(content, path)
    again, ema, _ = walk(tmp_path, ckpt=path)
    whole, other, _ = walk(tmp_path / "whole")
    assert torch.equal(again.net.weight, whole.net.weight)
    assert torch.equal(ema._averages["net.weight"], other._averages["net.weight"])


def test_averages_are_fp32_whatever_the_weights_are():
    """An average of 0.9999 in bf16 would never move."""
    task, ema = Walk().to(torch.bfloat16), EMA(0.9999)
    place = SimpleNamespace(global_step=0)
    ema.setup(place, task, "fit")
    with torch.no_grad():
        for step in range(1, 200):
            place.global_step = step
            ema.on_train_batch_end(place, task, None, None, step)
            task.net.weight.add_(1.0)
    average = ema._averages["net.weight"]
    assert average.dtype == torch.float32
    before = average.clone()
    ema._updates = 10**6
    place.global_step += 1
    ema.on_train_batch_end(place, task, None, None, 0)
    assert (average > before).all()
