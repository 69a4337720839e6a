"""Compare a training step of the U-Net with one of diffusers' U-Net of the same shape, eager and compiled.

python -m tests.benchmarks.peer                              the U-Net of Stable Diffusion 1, on a GPU where there is one
python -m tests.benchmarks.peer --shape medium --batch 4     a smaller one, for a CPU
python -m tests.benchmarks.peer --compile default            both compiled by torch.compile, too
python -m tests.benchmarks.peer --channels-last              both with weights whose channels come last, too

A step is forward and backward pass and AdamW, on the same random latents and tokens. Ways take turns; printed are the median of
a step, images per second, TFLOP/s by the operations that were counted of ours, the peak of a GPU's memory in a step, with the
weights of all ways in it, and the ratio to ours, eager, in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.backbone.unet import UNet
from ldm.batch import Condition


class UNetShape(NamedTuple):
    """The shape of a U-Net, and of what it is given."""

    channels: int
    mult: tuple[int, ...]
    heads: int
    width: int
    side: int
    tokens: int = 77


SHAPES = {
    "sd1": UNetShape(320, (1, 2, 4, 4), 8, 768, 64),
    "medium": UNetShape(128, (1, 2, 4, 4), 8, 256, 32),
    "tiny": UNetShape(32, (1, 2), 2, 32, 8),
}


class Step(NamedTuple):
    """A way to make a training step: the network, and what calls it."""

    network: nn.Module
    call: Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(shape: UNetShape) -> Step:
    """Return this project's network."""
    attention = range(len(shape.mult) - 1) if len(shape.mult) > 2 else range(len(shape.mult))
    network = UNet(
        4,
        model_channels=shape.channels,
        channel_mult=shape.mult,
        blocks=2,
        attention_levels=list(attention),
        heads=shape.heads,
        context_width=shape.width,
    )
    return Step(network, lambda x, t, tokens: network(x, t, Condition(tokens)))


def theirs(shape: UNetShape) -> Step:
    """Return diffusers' network."""
    plain = len(shape.mult) > 2
    levels = len(shape.mult) - plain
    network = UNet2DConditionModel(
        sample_size=shape.side,
        block_out_channels=[shape.channels * mult for mult in shape.mult],
        layers_per_block=2,
        cross_attention_dim=shape.width,
        attention_head_dim=shape.heads,  # the number of heads, in spite of its name
        down_block_types=["CrossAttnDownBlock2D"] * levels + ["DownBlock2D"] * plain,
        up_block_types=["UpBlock2D"] * plain + ["CrossAttnUpBlock2D"] * levels,
    )
    return Step(network, lambda x, t, tokens: network(x, t * 999, tokens).sample)


def compare(
    shape: UNetShape,
    batch: int,
    *,
    device: str,
    precision: str,
    mode: str | None,
    rounds: int,
    channels_last: bool = False,
) -> None:
    """Measure all ways in turns, and print a table."""
    torch.manual_seed(0)
    x = torch.randn(batch, 4, shape.side, shape.side, device=device)
    t, tokens = torch.rand(batch, device=device), torch.randn(batch, shape.tokens, shape.width, device=device)
    ways = {"ours": ours(shape), "diffusers": theirs(shape)}
    counts = [sum(weight.numel() for weight in way.network.parameters()) for way in ways.values()]
    assert counts[0] == counts[1], "two shapes"
    if channels_last:
        for name, make in (("ours", ours), ("diffusers", theirs)):
            ways[f"{name}, channels last"] = make(shape)
            ways[f"{name}, channels last"].network.to(memory_format=torch.channels_last)
    if mode is not None:
        ways |= {f"{name}, compiled": make(shape) for name, make in (("ours", ours), ("diffusers", theirs))}
        for name in ways:
            if "compiled" in name:
                ways[name].network.compile(mode=mode)
    steps = {name: _step(way, x, t, tokens, device, precision) for name, way in ways.items()}
    with FlopCounterMode(display=False) as counter:
        steps["ours"]()
    operations = counter.get_total_flops()
    times: dict[str, list[float]] = {name: [] for name in steps}
    memory = dict.fromkeys(steps, 0.0)
    for turn in range(rounds + 2):  # the first two are for compiling and warming up
        for name, step in steps.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            if turn >= 2:
                times[name].append(time.perf_counter() - start)
    print(
        f"{counts[0] / 1e6:.1f} M parameters, {batch} images, {operations / 1e12:.3f} TFLOP a step, {device}, {precision}"
    )
    base = statistics.median(times["ours"])
    for name, found in times.items():
        seconds = statistics.median(found)
        print(
            f"{name:20} {seconds * 1e3:9.1f} ms {batch / seconds:9.2f} images/s {operations / seconds / 1e12:8.2f} TFLOP/s "
            f"{memory[name]:6.1f} GiB   {base / seconds:.2f} x ours, eager"
        )


def _step(way: Step, x: Tensor, t: Tensor, tokens: Tensor, device: str, precision: str) -> Callable[[], None]:
    network = way.network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = way.call(x, t, tokens).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Read the command line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="sd1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default=device)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", default=None, help="a mode of torch.compile")
    parser.add_argument("--channels-last", action="store_true", help="both with weights whose channels come last, too")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    compare(SHAPES[given.shape], given.batch, device=given.device, precision=given.precision, mode=given.compile,
            rounds=given.rounds, channels_last=given.channels_last)  # fmt: skip


if __name__ == "__main__":
    main()
