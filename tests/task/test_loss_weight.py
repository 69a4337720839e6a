"""A model whose loss weights pixels asks for the field `loss_weight`, and uses it."""

import pytest
import torch

from ldm.batch import Batch
from ldm.config import build, compose, resolved
from ldm.task.diffusion import DiffusionTask
from tests.conftest import scramble


def test_a_model_that_asks_for_weights_needs_the_field_and_uses_it():
    config = compose("train", ["experiment=txt2img", "debug=tiny", "model.loss.pixel_weights=true"])
    model = build(resolved(config.model))
    task = DiffusionTask(model, optimizer=torch.optim.AdamW, scheduler=torch.optim.lr_scheduler.ConstantLR, config={})
    assert task.inputs == ("caption", "loss_weight")
    scramble(model.denoiser)
    model.conditioner.prepare([{"caption": ["a red heart"]}])
    image, weight = torch.randn(2, 3, 32, 32).clamp(-1, 1), torch.ones(2, 1, 32, 32)
    weight[1] = 0.0

    def loss(**fields):
        torch.manual_seed(0)
        return model.loss(Batch(["a", "b"], {"image": image, "caption": ["a red heart"] * 2, **fields}))

    masked, whole = loss(loss_weight=weight), loss(loss_weight=torch.ones(2, 1, 32, 32))
    assert masked[0] == whole[0] > 0
    assert masked[1] == 0 < whole[1]
    with pytest.raises(ValueError, match="the field loss_weight is needed"):
        loss()
    model.denoising_loss.inputs = ()
    assert task.inputs == ("caption",)
    assert torch.equal(loss(), whole), "the same without the option"
