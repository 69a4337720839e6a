"""`python -m ldm.ema run=RUN length=0.075`; its options are in configs/ema.yaml."""

from omegaconf import DictConfig

from ldm.config import command


def run(config: DictConfig) -> None:
    """Run the command with its config."""
    # Not above: it loads the large libraries, which help and mistyped options do not need.
    from ldm.ema.average import main

    main(config)


if __name__ == "__main__":
    command("ema", run)
