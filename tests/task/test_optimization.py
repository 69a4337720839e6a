from itertools import pairwise

import pytest
import torch

from ldm.task.optimization import LearningRate


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_warm_up_then_decay_to_the_final_share(decay):
    rate = LearningRate(warmup_steps=10, decay=decay, final=0.1)
    shares = [rate.share(step, 110) for step in range(111)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert shares[10] == 1.0
    assert all(after <= before for before, after in pairwise(shares[10:]))
    assert shares[-1] == pytest.approx(1.0 if decay == "constant" else 0.1)
    assert shares[60] == pytest.approx({"constant": 1.0, "linear": 0.55, "cosine": 0.55}[decay])


def test_scheduler_sets_the_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=2.0)
    scheduler = LearningRate(warmup_steps=2, decay="linear").schedule(optimizer, steps=4)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.0, 0.0])


def test_unknown_decay_is_an_error():
    with pytest.raises(ValueError, match="'constant', 'linear' or 'cosine'"):
        LearningRate(decay="exponential")
