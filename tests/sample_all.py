"""Sample images of a run with every sampler, into one folder each.

Run by test_sample, alone and under torchrun: RUN PROMPTS OUT BATCH_SIZE.
"""

import os
import sys
from pathlib import Path

import torch.distributed as dist

from ldm.config import CONFIGS, compose
from ldm.generation.sample import sample

if "RANK" in os.environ:
    dist.init_process_group("gloo")
run, prompts, out, batch_size = sys.argv[1:]
for file in sorted((CONFIGS / "sampler").glob("*.yaml")):
    options = [f"sampler={file.stem}", "sampler.steps=5", f"out={Path(out) / file.stem}", f"batch_size={batch_size}"]
    if file.stem in ("euler", "heun"):
        options.append("sampler.churn.amount=2")
    if file.stem == "ddim":
        options.append("sampler.eta=1")
    sample(compose("sample", [f"ckpt={run}", f"prompts={prompts}", "n=2", "seed=9", "device=cpu", *options]))
