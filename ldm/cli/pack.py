"""`python -m ldm.data.pack images=FOLDER captions=captions.csv out=DIR`; its options are in configs/pack.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program
from ldm.config import resolved


def main() -> None:
    """Pack captioned images into tar shards."""
    program("pack", run)


def run(config: DictConfig) -> None:
    """Pack as a config says, and print what was written."""
    from ldm.data.pack.packer import Packer  # here, since help and mistakes need no large libraries

    print(Packer(**resolved(config)).write().table())
