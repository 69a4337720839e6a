"""`python -m ldm.evaluate ckpt=RUN out=FOLDER`; its options are in configs/evaluate.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Measure a model, or a folder of images."""
    program("evaluate", run)


def run(config: DictConfig) -> None:
    """Do what a config says, and print the scores."""
    from ldm.evaluate.program import evaluate  # here, since help and mistakes need no large libraries

    evaluate(config)
