"""Learning rates over time: ours, and those of torch and transformers in their place."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, PolynomialLR, ReduceLROnPlateau
from transformers import get_cosine_schedule_with_warmup

from ldm.config import CONFIGS, build, compose
from ldm.optim.scheduler import (
    ConstantWithCooldown,
    ConstantWithWarmup,
    CosineWithWarmup,
    LinearWithWarmup,
    attach,
    step_options,
)


def rates(scheduler, steps, lr=1.0):
    """The rates of the steps, and the one after them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    made = attach(scheduler, optimizer, steps)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


KINDS = [
    (partial(ConstantWithWarmup, warmup_steps=10), 1.0, 1.0),
    (partial(LinearWithWarmup, warmup_steps=10, final=0.1), 0.55, 0.1),
    (partial(CosineWithWarmup, warmup_steps=10, final=0.1), 0.55, 0.1),
]


@pytest.mark.parametrize(("kind", "half", "final"), KINDS, ids=["constant", "linear", "cosine"])
def test_warm_up_then_decay_to_the_final_share(kind, half, final):
    found = rates(kind, 110)
    assert found[:10] == [(step + 1) / 10 for step in range(10)], "bitwise"
    assert found[10] == 1.0
    assert all(after <= before for before, after in pairwise(found[10:]))
    assert found[60] == pytest.approx(half)
    assert found[-1] == pytest.approx(final)


def test_a_cooldown_is_linear_over_the_last_steps_alone():
    found = rates(partial(ConstantWithCooldown, warmup_steps=10, cooldown=0.2, final=0.1), 100)
    assert found[:80] == rates(partial(ConstantWithWarmup, warmup_steps=10), 79), "which know nothing of the end"
    assert found[80:] == pytest.approx([1.0 - 0.9 * step / 20 for step in range(21)])
    assert rates(partial(ConstantWithCooldown, cooldown=1.0), 10) == rates(LinearWithWarmup, 10)
    assert rates(partial(ConstantWithCooldown, cooldown=0.0), 9) == [1.0] * 9 + [1.0]


def test_a_trial_that_ends_within_the_warm_up_has_a_cooldown_too():
    found = rates(partial(ConstantWithCooldown, warmup_steps=5000, cooldown=0.5), 20)
    assert found[:11] == [(step + 1) / 5000 for step in range(11)]
    assert found[-1] == 0


def test_without_a_warm_up_the_first_step_has_the_full_rate():
    assert rates(ConstantWithWarmup, 3, lr=2.0) == [2.0] * 4
    assert rates(partial(LinearWithWarmup, warmup_steps=2), 4, lr=2.0) == [1.0, 2.0, 2.0, 1.0, 0.0]


def test_the_rate_of_a_step_does_not_depend_on_where_the_training_was_stopped():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    made = attach(CosineWithWarmup, optimizer, 50)
    whole = rates(CosineWithWarmup, 50, lr=0.3)
    for _ in range(20):
        optimizer.step()
        made.step()
    again = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    later = attach(CosineWithWarmup, again, 50)
    later.load_state_dict(made.state_dict())
    again.step()
    later.step()
    assert again.param_groups[0]["lr"] == whole[21]


def test_schedulers_of_torch_and_transformers_get_the_number_of_steps():
    assert rates(partial(LinearLR, start_factor=1.0, end_factor=0.5), 10)[-1] == pytest.approx(0.5)
    assert rates(PolynomialLR, 10)[-1] == pytest.approx(0.0)
    assert rates(CosineAnnealingLR, 10)[-1] == pytest.approx(0.0)
    assert rates(partial(get_cosine_schedule_with_warmup, num_warmup_steps=2), 10)[-1] == pytest.approx(0.0)
    assert rates(partial(CosineAnnealingLR, T_max=20), 10)[-1] == pytest.approx(0.5), "what is given stays"


def test_which_schedules_change_when_a_run_is_lengthened():
    kinds = (ConstantWithWarmup, LinearWithWarmup, ConstantWithCooldown, partial(CosineAnnealingLR, T_max=5))
    assert [bool(step_options(kind)) for kind in kinds] == [False, True, True, False]


def test_a_scheduler_by_a_metric_is_refused():
    with pytest.raises(ValueError, match="ReduceLROnPlateau changes the learning rate by a metric.*scheduler=cosine"):
        rates(ReduceLROnPlateau, 3)


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONFIGS / "scheduler").glob("*.yaml")))
def test_every_choice_makes_a_scheduler_for_every_stage(choice):
    options = [f"scheduler@stage.{stage}.scheduler={choice}" for stage in ("autoencoder", "diffusion")]
    config = compose("train", ["experiment=txt2img", *options])
    for stage in ("autoencoder", "diffusion"):
        assert rates(build(config.stage[stage].scheduler), 4)[0] > 0
