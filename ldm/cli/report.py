"""`python -m ldm.report runs/txt2img`; its options are in configs/report.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Write the report of a run."""
    program("report", run, words="runs", paths=True)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    from ldm.report.program import main as do  # here, since help and mistakes need no large libraries

    do(config)
