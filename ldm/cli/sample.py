"""`python sample.py ckpt=RUN prompt="..."`; its options are in configs/sample.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program
from ldm.config import is_rank_zero


def main() -> None:
    """Draw images."""
    program("sample", run)


def run(config: DictConfig) -> None:
    """Draw images as a config says, and tell where they are."""
    from ldm import generate  # not above: it loads the large libraries, which help and mistyped options do not need

    wanted, out = generate.sample(config)
    if is_rank_zero():
        print(f"{len(wanted)} images in {out}: look at {out / 'grid.png'}")
