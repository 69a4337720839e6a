"""`python -m ldm.data.encode autoencoder.ckpt=RUN out=DIR`; its options are in configs/encode.yaml."""

from omegaconf import DictConfig

from ldm.config import command


def run(config: DictConfig) -> None:
    """Do what the command says."""
    # Not above: it loads the large libraries, which help and mistyped options do not need.
    from ldm.data.encode.encoder import main

    main(config)


if __name__ == "__main__":
    command("encode", run)
