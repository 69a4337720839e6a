"""`python -m ldm.fetch lpips clip_l out=DIR`; its options are in configs/fetch.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Bring pretrained weights here."""
    program("fetch", run, words="names")


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.fetch.program import main as do  # here, since help and mistakes need no large libraries

    do(config)
