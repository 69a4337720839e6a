"""Hints about the machine before a run begins."""

from types import SimpleNamespace

import torch
from torch import nn

from ldm.training.hints import idle_devices, large_on_cpu
from tests.training.stages import composed


def test_idle_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    one = composed("experiment=txt2img", "trainer=gpu")
    assert idle_devices(one) == "this machine has 8 GPUs, of which 1 will be used; to use all, stop and add trainer=ddp"
    for options in (["trainer=ddp"], ["trainer=cpu"], ["trainer=gpu", "trainer.devices=8"]):
        assert idle_devices(composed("experiment=txt2img", *options)) is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert idle_devices(one) is None


def test_a_large_network_on_a_cpu_is_named_with_what_says_how_long_it_takes():
    def stage(width, **options):
        task = nn.Linear(width, width, bias=False, device="meta", **options)
        return SimpleNamespace(name="diffusion", task=task, steps=100_000, batch_size=256)

    hint = large_on_cpu(stage(10_000), "cpu")
    assert hint.startswith(
        "stage diffusion trains 100 M parameters for 100,000 steps of 256 images, and a step takes minutes"
    )
    assert "python -m ldm.plan" in hint
    assert large_on_cpu(stage(10_000), "gpu") is None
    assert large_on_cpu(stage(1000), "cpu") is None
    frozen = stage(10_000)
    frozen.task.requires_grad_(False)
    assert large_on_cpu(frozen, "cpu") is None
