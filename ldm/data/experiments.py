"""The experiment that fits what samples have, for the next command that a program names."""

from __future__ import annotations

from ldm.data.base import DataModule
from ldm.data.order.batch_sampler import spread

FITTING = {
    "caption": "txt2img_shards",
    "label": "cin256",
    "boxes": "layout2img_openimages",
    "segmentation": "semantic_synthesis256",
    "neighbors": "retrieval_augmented",
}
"""Field -> the experiment of a model that is told it and nothing else; the first that samples have is chosen."""

IMAGES_ALONE = "lsun_churches256"
"""The experiment of a model that is told nothing."""

LOOKED_AT = 100


def fitting_experiment(data: DataModule) -> str:
    """Return the name of an experiment whose model is told what most validation samples have, or nothing."""
    numbers = spread(len(data.val_set), LOOKED_AT)
    for field, experiment in FITTING.items():
        if 2 * len(data.val_set.broken(numbers, data.choose([field]))) < len(numbers):
            return experiment
    return IMAGES_ALONE
