"""Train: `python train.py experiment=txt2img`, or `python train.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from ldm.config import check_options, quote_texts, register_resolvers, say_errors

register_resolvers()
sys.argv[1:] = quote_texts(sys.argv[1:])


@hydra.main(config_path="configs", config_name="train", version_base="1.3")
@say_errors
def main(config: DictConfig) -> float | None:
    from ldm.training.run import (
        train,  # not above: it loads the large libraries, which help and mistyped options do not need
    )

    return train(config)


if __name__ == "__main__":
    check_options("train", sys.argv[1:])
    main()
