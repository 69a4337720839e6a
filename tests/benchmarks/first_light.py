"""Show that everything works on a machine with a GPU, and measure it: one part after the other, each in some minutes.

python -m tests.benchmarks.first_light out=light                   all parts, into light/report.md
python -m tests.benchmarks.first_light out=light quickstart ddp    some of them, in that order
python -m tests.benchmarks.first_light out=light tiny all          the smallest sizes, to see that it works

A part that fails does not keep the next from beginning. The report has each command, its time, and the end of what it said; parts
that were done stay in it. The parts `batches`, `resume` and `repeat` sample and go on with the run of `quickstart`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import ROOT

LINES = 25
"""Of what a command says, so many lines at its end go into the report."""

LIMIT = 560
"""Seconds that a command may take."""


class Sizes(NamedTuple):
    """How large the parts are: as they are meant, or as small as can be."""

    run: tuple[str, ...] = ()
    steps: int = 200
    hardware: str = "h100"
    photographs: tuple[str, ...] = ()
    shape: str = "sd1"
    batches: tuple[int, ...] = (8, 32, 64)
    images: tuple[int, ...] = (32, 64, 128)
    model: str = "txt2img_1p4b"


TINY = Sizes(
    run=("debug=tiny",),
    steps=6,
    hardware="cpu",
    photographs=("debug=tiny", "conditioner=transformer_icons"),
    shape="tiny",
    batches=(2,),
    images=(2,),
    model="txt2img_shards",
)


class Light:
    """The parts, which write into one folder.

    Args:
        out: The folder.
        sizes: How large they are.
    """

    def __init__(self, out: Path, sizes: Sizes) -> None:
        self.out = out
        self.sizes = sizes
        self.runs = out / "runs"

    def quickstart(self) -> Iterator[str]:
        """The README's first command: its time and its scores."""
        yield self.train("name=quickstart")

    def ddp(self) -> Iterator[str]:
        """Several processes' code on one device."""
        accelerator = [] if torch.cuda.is_available() else ["trainer.accelerator=cpu"]
        yield self.train("name=ddp", "debug=tiny", "trainer=ddp", "trainer.devices=1", *accelerator)

    def batches(self) -> Iterator[str]:
        """The same pictures in batches of another size."""
        pictures = {}
        for size in (1, 8):
            folder = self.out / f"samples-{size}"
            sample = ["sample.py", f"ckpt={self.runs}/quickstart", "prompt=a red heart on a white background"]
            yield run(*sample, "n=8", "seed=0", f"batch_size={size}", f"out={folder}")
            files = sorted(folder.glob("0*.png"))
            pictures[size] = np.stack([np.asarray(Image.open(file), dtype=int) for file in files])
        difference = np.abs(pictures[1] - pictures[8])
        yield f"largest difference {difference.max()} of 255 levels (at most 2 are promised), mean {difference.mean():.4f}"

    def resume(self, *options: str) -> Iterator[str]:
        """A run that is killed and goes on, beside one that is not, and beside one that is made again."""
        common = [f"autoencoder.ckpt={self.runs}/quickstart", "stage=[diffusion_icons]", "callbacks=none", *options]
        common += [
            f"trainer.max_steps={self.sizes.steps}",
            f"callbacks.checkpoint.every_n_steps={self.sizes.steps // 2}",
        ]
        kind = "repeat" if options else "resume"
        for name in ("whole", "again"):
            yield self.train(f"name={kind}-{name}", *common)
        killed = self.runs / f"{kind}-killed" / "diffusion" / "checkpoints"
        words = self.words(f"name={kind}-killed", *common)
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not list(killed.glob("step-*.ckpt")):
            time.sleep(0.05)
        process.kill()
        process.wait()
        yield f"killed with {[file.name for file in killed.glob('step-*.ckpt')]}"
        yield self.train(f"name={kind}-killed", *common)
        whole = load_file(self.runs / f"{kind}-whole" / "model.safetensors")
        for name in ("again", "killed"):
            other = load_file(self.runs / f"{kind}-{name}" / "model.safetensors")
            same = all(torch.equal(whole[key], other[key]) for key in whole)
            pairs = [(whole[key].double(), other[key].double()) for key in whole if whole[key].is_floating_point()]
            size = sum(float((one - two).square().sum()) for one, two in pairs) ** 0.5
            norm = sum(float(one.square().sum()) for one, _ in pairs) ** 0.5
            yield f"{name}: the weights are {'the same, bit by bit' if same else f'others, by {size / norm:.2e} of their norm'}"

    def repeat(self) -> Iterator[str]:
        """The same with deterministic kernels."""
        yield from self.resume("trainer.deterministic=true")

    def peer(self) -> Iterator[str]:
        """A training step beside diffusers', eager and compiled."""
        device = [] if torch.cuda.is_available() else ["--device=cpu", "--precision=fp32"]
        for batch in self.sizes.batches:
            shape = [f"--shape={self.sizes.shape}", f"--batch={batch}", *device]
            more = ["--channels-last", *(["--compile=default"] if not device else [])]
            yield run("-m", "tests.benchmarks.peer", *shape, *more)

    def autoencoder(self) -> Iterator[str]:
        """Steps of the first stage at 256 pixels, with and without the discriminator, LPIPS with random weights."""
        for start in (0, 10**9):
            loss = f"stage.autoencoder.loss.start_step={start}"
            yield self.step("autoencoder", 12, "stage.autoencoder.trainer.max_steps=1000", loss)

    def unet(self) -> Iterator[str]:
        """Steps of the U-Net of `txt2img_shards`, from images and from cached latents."""
        for count in self.sizes.images:
            for latents in ("false", "true"):
                yield self.step("diffusion", count, f"latents={latents}")
        yield self.step("diffusion", self.sizes.images[0], "encode_precision=32-true")
        yield self.step("diffusion", self.sizes.images[0], "activation_checkpointing=true", "latents=true")

    def largest(self) -> Iterator[str]:
        """Steps of the paper's model of 1.45 B parameters, with batches that grow until the memory is full."""
        for count in self.sizes.images:
            for more in ([], ["activation_checkpointing=true"]):
                yield self.step("diffusion", count, "latents=true", *more, experiment=self.sizes.model)

    def step(self, stage: str, count: int, *options: str, experiment: str = "txt2img_shards") -> str:
        """Measure training steps of a stage."""
        batch = [f"stage.{stage}.batch_size={count}", f"stage.{stage}.trainer.accumulate_grad_batches=1"]
        plan = ["-m", "ldm.plan", f"experiment={experiment}", f"stage=[{stage}]", f"hardware={self.sizes.hardware}"]
        given = [] if stage == "autoencoder" else ["autoencoder.ckpt=later"]
        return run(*plan, "measure=true", *batch, *given, *self.sizes.photographs, *options)

    def train(self, *options: str) -> str:
        """Train on icons."""
        return run(*self.words(*options))

    def words(self, *options: str) -> list[str]:
        """Return the command that trains on icons."""
        places = [f"paths.runs_dir={self.runs}", f"paths.data_dir={self.out}/data"]
        return ["train.py", "experiment=txt2img", *places, *self.sizes.run, *options]


PARTS = ("quickstart", "ddp", "batches", "resume", "repeat", "peer", "autoencoder", "unet", "largest")


def run(*words: str) -> str:
    """Run a Python command line; return it with its time and the end of what it said."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT
        )
        end, text = f"exit {done.returncode}", done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        end, text = f"stopped after {LIMIT} s", (late.stdout or b"").decode(errors="replace")
    lines = [line.rpartition("\r")[2] for line in text.splitlines() if line.strip()]
    said = "\n".join(lines[-LINES:])
    return f"$ python {' '.join(words)}\n{said}\n[{end}, {time.perf_counter() - begin:.1f} s]"


def light(out: Path, parts: list[str], sizes: Sizes) -> None:
    """Do some parts; add what they found to the report."""
    out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for part in parts:
        with (out / "report.md").open("a", encoding="utf-8") as report:
            report.write(f"\n## {part}\n\n{getattr(Light, part).__doc__} {device}, torch {torch.__version__}.\n")
            try:
                for found in getattr(Light(out, sizes), part)():
                    print(f"{part}: {found}\n", flush=True)
                    report.write(f"\n```\n{found}\n```\n")
            except Exception as error:
                print(f"{part}: {error!r}\n", flush=True)
                report.write(f"\n{error!r}\n")


def main() -> None:
    """Read the command line."""
    words = sys.argv[1:]
    out = next((word.partition("=")[2] for word in words if word.startswith("out=")), "")
    parts = [word for word in words if word in PARTS] or list(PARTS)
    unknown = [word for word in words if word not in (*PARTS, f"out={out}", "tiny", "all")]
    if not out or unknown:
        raise SystemExit(f"{' '.join(unknown) or 'out= is missing'}; {__doc__}")
    light(Path(out).absolute(), parts, TINY if "tiny" in words else Sizes())


if __name__ == "__main__":
    main()
