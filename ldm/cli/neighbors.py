"""The work of `python -m ldm.data.neighbors`, which needs packages that do not import one another."""

from omegaconf import DictConfig

from ldm.data.neighbors.program import answer_images, answer_prompts, check_options, copy_shards
from ldm.generation.pictures import find_images, read_image
from ldm.generation.prompts import read_prompts


def run(config: DictConfig) -> None:
    """Find the nearest neighbours of images, of prompts, or of the samples of shards, as a config says."""
    check_options(config)
    if config.images is not None:
        answer_images(config, find_images(config.images), read_image)
    elif config.prompts is not None:
        answer_prompts(config, [one.text for one in read_prompts(None, config.prompts) if one.text is not None])
    else:
        copy_shards(config)
