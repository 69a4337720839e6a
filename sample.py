"""Draw images: `python sample.py ckpt=runs/txt2img prompt="a red heart on a white background"`, or `--help`."""

import sys

import hydra
from omegaconf import DictConfig

from ldm.config import CONFIGS, check_options, is_rank_zero, quote_texts, register_resolvers, say_errors
from ldm.generation.options import misplaced

register_resolvers()
sys.argv[1:] = quote_texts(sys.argv[1:])


@hydra.main(config_path="configs", config_name="sample", version_base="1.3")
@say_errors
def main(config: DictConfig) -> None:
    """Draw the images."""
    from ldm.generation.sample import sample  # not above: help and mistyped options do not need the large libraries

    requests, out = sample(config)
    if is_rank_zero():
        print(f"{len(requests)} images in {out}: look at {out / 'grid.png'}")


if __name__ == "__main__":
    if (wrong := misplaced(sys.argv[1:], CONFIGS)) is not None:
        print(f"error: {wrong}", file=sys.stderr)
        raise SystemExit(1)
    check_options("sample", sys.argv[1:])
    main()
