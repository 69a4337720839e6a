"""`python -m ldm.data.neighbors data.train=SHARDS data.val=SHARDS out=DIR`; its options are in configs/neighbors.yaml."""

from omegaconf import DictConfig

from ldm.cli.entry import program


def main() -> None:
    """Find the nearest neighbours of images."""
    program("neighbors", run)


def run(config: DictConfig) -> None:
    """Do what a config says."""
    # here, since help and mistakes need no large libraries
    from ldm.data.neighbors.program import answer_images, answer_prompts, check_options, copy_shards
    from ldm.generation.pictures import find_images, read_image
    from ldm.generation.prompts import read_prompts

    check_options(config)
    if config.images is not None:
        answer_images(config, find_images(config.images), read_image)
    elif config.prompts is not None:
        answer_prompts(config, [one.text for one in read_prompts(None, config.prompts) if one.text is not None])
    else:
        copy_shards(config)
