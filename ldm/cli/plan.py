"""`python -m ldm.plan experiment=NAME gpus=8 hardware=h100`; its options are in configs/plan.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program

UNNEEDED = ("data.train", "data.val")
"""Options that train.py needs and a plan does not."""


def main() -> None:
    """Say what a run computes, needs and costs."""
    start = "no experiment was named; type python -m ldm.plan experiment=txt2img, or --help for more"
    program("plan", run, missing={"name": start}, unneeded=UNNEEDED)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.plan.program import main as do  # here, since help and mistakes need no large libraries

    do(config)
