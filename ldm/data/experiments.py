"""The experiment that fits what samples have, for the next command that a program names."""

from __future__ import annotations

from collections.abc import Callable

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


def choose_experiment(most_have: Callable[[str], bool]) -> str:
    """Return the name of an experiment whose model is told what most samples have, or nothing.

    Args:
        most_have: Says of a field, by its name, whether most samples have it.
    """
    return next((experiment for field, experiment in FITTING.items() if most_have(field)), IMAGES_ALONE)
