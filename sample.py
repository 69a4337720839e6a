"""Draw images: `python sample.py ckpt=runs/txt2img prompt="a red heart on a white background"`, or `--help`."""

import os
import sys
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from ldm import checkpoint, generate
from ldm.config import build, check_options, is_rank_zero, quote_texts, register_resolvers, resolved, say_errors

register_resolvers()
sys.argv[1:] = quote_texts(sys.argv[1:])


@hydra.main(config_path="configs", config_name="sample", version_base="1.3")
@say_errors
def main(config: DictConfig) -> None:
    wanted = generate.orders(generate.read_prompts(config.prompt, config.prompts), config.n, config.seed)
    gpu = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = config.device or (gpu if torch.cuda.is_available() else "cpu")
    generate.generate(
        checkpoint.load(config.ckpt, device=device, packages=config.packages),
        wanted,
        Path(config.out),
        sampler=build(config.sampler),
        guidance=build(config.guidance),
        settings={"sampler": resolved(config.sampler), "guidance": resolved(config.guidance)},
        side=config.side,
        batch_size=config.batch_size,
    )
    if is_rank_zero():
        print(f"{len(wanted)} images in {config.out}: look at {Path(config.out) / 'grid.png'}")


if __name__ == "__main__":
    check_options("sample", sys.argv[1:])
    main()
