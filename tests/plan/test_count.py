"""What is counted on the meta device is what a real computation does: operations, kept and live memory, the optimiser's state."""

import pytest
import torch
from torch import nn

from ldm.plan.build import make_workload
from ldm.plan.count import Allocations, SavedBytes, counted_flops
from ldm.plan.kernels import DeviceKernels
from ldm.plan.memory import optimizer_bytes, resident_memory, step_memory
from ldm.plan.operations import count_operations
from ldm.plan.speed import estimate_speed
from tests.training.stages import composed, stages

TINY = (
    *("experiment=txt2img", "debug=tiny"),
    *("backbone.channel_mult=[1]", "backbone.attention_levels=[0]", "conditioner.depth=1"),
)


def workload(name, device, *options, cached=False):
    return make_workload(stages(composed(*TINY, *options))[name], device, cached=cached)


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Linear(3, 5), (7, 3), 2 * 7 * 3 * 5),
        (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 8, 8), 2 * 2 * 8 * 8 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, 3, padding=1, stride=2), (2, 3, 8, 8), 2 * 2 * 4 * 4 * 5 * 3 * 9),
    ],
)
def test_operations_of_layers_are_those_computed_by_hand(layer, shape, flops):
    found = []
    with counted_flops(found.append):
        out = layer.to("meta")(torch.empty(shape, device="meta", requires_grad=True))
    with counted_flops(found.append):
        out.sum().backward()
    assert found == [flops, 2 * flops], "the backward pass computes as much for the input and for the weights"


def test_attention_counts():
    query, key, value = (torch.empty(2, 4, length, 8, device="meta") for length in (16, 5, 5))
    found = []
    with DeviceKernels(accelerator="gpu", autocast=False, fused=False), counted_flops(found.append):
        nn.functional.scaled_dot_product_attention(query, key, value)
    with DeviceKernels(accelerator="gpu", autocast=False), counted_flops(found.append):
        nn.functional.scaled_dot_product_attention(query, key, value)
    assert found == [2 * 2 * (2 * 4 * 16 * 5 * 8)] * 2


@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
def test_operations_are_linear_in_the_images(name):
    one, three = (count_operations(workload(name, "meta"), images=images) for images in (1, 3))
    assert one == three


def test_the_parts_of_a_step_are_the_whole():
    """A step as one piece computes what its parts do together; attention is computed once, as here."""
    whole = workload("diffusion", "meta")
    found = []
    with DeviceKernels(accelerator="cpu", autocast=False, fused=False), counted_flops(found.append):
        whole.step(whole.batch(1))
    assert count_operations(workload("diffusion", "meta")).total == found[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recomputed", ["true", "false"])
@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
def test_memory_is_that_of_a_real_step(name, recomputed, precision, monkeypatch):
    """Tensors that are kept, and most that are alive, agree with those of the same step with real tensors and real autocast."""
    autocast, found = precision == "bf16", {}
    flash = torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(not autocast)  # as a run on a CPU does
    try:
        for device in ("meta", "cpu"):
            load = workload(name, device, f"activation_checkpointing={recomputed}")
            batch = load.batch(4)
            known = [*load.task.parameters(), *load.task.buffers()]
            known += [value for value in batch.fields.values() if isinstance(value, torch.Tensor)]
            saved, allocations = SavedBytes(known), Allocations(device)
            allocations.know(known)
            kernels = (
                DeviceKernels(accelerator="cpu", autocast=autocast)
                if device == "meta"
                else torch.autocast("cpu", torch.bfloat16, enabled=autocast)
            )
            with kernels, allocations, saved.counting():
                load.step(batch)
            found[device] = (saved.most, allocations.peak)
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
    for counted, real in zip(found["meta"], found["cpu"], strict=True):
        assert counted == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("name", ["autoencoder", "diffusion"])
def test_activation_checkpointing_computes_blocks_twice(name):
    kept, recomputed = (
        count_operations(workload(name, "meta", f"activation_checkpointing={on}")) for on in ("false", "true")
    )
    assert kept.forward == recomputed.forward
    assert 0 < recomputed.backward - kept.backward < sum(kept.forward.values())


def test_the_precision_of_the_encoder_changes_no_operation_but_its_speed():
    options = "data.cache_latents=false"
    full, lower = (
        count_operations(workload("diffusion", "meta", options, f"encode_precision={one}"))
        for one in ("32-true", "bf16-mixed")
    )
    assert lower == full._replace(full=0)
    assert full.full == full.frozen == full.forward["encoder"] > 0
    hardware = {"utilization": 0.5, "tflops_bf16": 4.0, "tflops_fp32": 1.0, "bandwidth": 1.0}
    resident = resident_memory(workload("diffusion", "meta"), processes=1)
    slow, fast = (estimate_speed(found, resident, hardware, autocast=True) for found in (full, lower))
    assert slow.encoder == pytest.approx(4 * fast.encoder)
    assert slow.image - slow.encoder == pytest.approx(fast.image - fast.encoder)


def test_memory_of_a_step_is_linear_in_its_images():
    totals = []
    for images in (4, 8, 12):
        step = step_memory(workload("diffusion", "meta"), images, accelerator="gpu", autocast=True)
        totals.append(step.activations + step.batch)
    assert totals[2] - totals[1] == pytest.approx(totals[1] - totals[0], rel=1e-3)
    assert totals[1] > totals[0] > 0


def test_accumulation_holds_the_gradients_of_the_first_batch():
    alone, second = (
        step_memory(workload("autoencoder", "meta"), 4, accelerator="gpu", autocast=False, accumulate=number)
        for number in (1, 2)
    )
    load = workload("autoencoder", "meta")
    trained = sum(part.nbytes for part in load.task.parameters() if part.requires_grad)
    assert second.gradients == trained
    assert second.total > alone.total


def test_weights_are_cast_once_a_step():
    """To half of their size; in the second of two steps as in the first."""
    load = workload("diffusion", "meta")
    step = step_memory(load, 4, accelerator="gpu", autocast=True)
    trained = sum(part.nbytes for part in load.task.parameters() if part.requires_grad)
    assert 0.4 * trained < step.casts <= 0.5 * trained


def test_fused_attention_keeps_no_matrix():
    kept = {}
    for fused in (True, False):
        query, key, value = (
            torch.empty(1, 1, 256, 8, device="meta", requires_grad=True, dtype=torch.float32) for _ in range(3)
        )
        saved = SavedBytes([query, key, value])
        with DeviceKernels(accelerator="gpu", autocast=False, fused=fused), saved.counting():
            nn.functional.scaled_dot_product_attention(query, key, value)
        kept[fused] = saved.most
    assert kept[False] > 256 * 256 * 4 > kept[True]


@pytest.mark.parametrize("choice", ["adam", "adamw", "muon"])
def test_the_state_of_an_optimizer_is_that_of_a_real_step(choice):
    options = [f"optimizer@stage.diffusion.optimizer={choice}"]
    counted, real = workload("diffusion", "meta", *options), workload("diffusion", "cpu", *options)
    from ldm.config import build
    from ldm.optim.optimization import Trained

    optimizer = build(real.stage.optimizer)(Trained(real.task))
    for part in real.task.parameters():
        part.grad = torch.zeros_like(part) if part.requires_grad else None
    optimizer.step()
    state = [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, torch.Tensor)]
    assert optimizer_bytes(counted.stage, counted.task) == sum(value.nbytes for value in state)


def test_what_is_there_all_the_time():
    load = workload("diffusion", "meta", "+stage.diffusion.callbacks.power_ema.lengths=[0.05,0.1]")
    resident = resident_memory(load, processes=2)
    trained = sum(part.nbytes for part in load.task.parameters() if part.requires_grad)
    assert resident.trained == resident.buckets == trained
    assert resident.averages == 3 * trained
    assert resident_memory(load, processes=1).buckets == 0
    assert resident.frozen >= sum(part.nbytes for part in load.model.autoencoder.parameters())
