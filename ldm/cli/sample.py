"""`python sample.py ckpt=RUN prompt="..."`; its options are in configs/sample.yaml."""

from pathlib import Path

from omegaconf import DictConfig

from ldm.cli.command_line import CommandLine, UsageError
from ldm.cli.entry import program
from ldm.config import CONFIGS, is_rank_zero
from ldm.generation.options import GROUP, misplaced


def main() -> None:
    """Draw images."""
    program("sample", run, check=check_modes, alternatives=GROUP)


def check_modes(line: CommandLine) -> None:
    """Check that all options are of the chosen mode.

    Raises:
        UsageError: If one is of another mode.
    """
    folders = [Path(place.removeprefix("file://")) for place in line.folders]
    if (wrong := misplaced(line.options, CONFIGS, folders)) is not None:
        raise UsageError(wrong)


def run(config: DictConfig) -> None:
    """Draw images as a config says, and tell where they are."""
    from ldm.generation.sample import sample  # here, since help and mistakes need no large libraries

    requests, out = sample(config)
    if is_rank_zero():
        print(f"{len(requests)} image{'s' if len(requests) > 1 else ''} in {out}: look at {out / 'grid.png'}")
