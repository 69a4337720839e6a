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
"""Field -> the experiment of a model conditioned on it and nothing else; the first that samples have is chosen."""

IMAGES_ALONE = "lsun_churches256"
"""The experiment of an unconditional model."""

FEW = 10_000
"""Training images below which a small model is named, too: large recipes take up to 1,024 of them in one step."""

UNKNOWN_CLASSES = "conditioner.num_classes=..."
"""The option that a person completes where nobody has counted the classes."""

SMALL = {
    "txt2img_shards": ("captions", ()),
    "cin256": ("classes", ("conditioner=label",)),
    "layout2img_openimages": ("layouts", ("conditioner=layout_icons",)),
    "semantic_synthesis256": ("maps", ("conditioner=segmentation", UNKNOWN_CLASSES)),
    IMAGES_ALONE: ("images", ("conditioner=unconditional",)),
}
"""Experiment -> the name of a run, and the options that give `experiment=txt2img` the same condition, in a small model that is
trained on a laptop."""


def choose_experiment(most_have: Callable[[str], bool]) -> str:
    """Return the name of an experiment whose model is conditioned on what most samples have, or unconditional.

    Args:
        most_have: Says of a field, by its name, whether most samples have it.
    """
    return next((experiment for field, experiment in FITTING.items() if most_have(field)), IMAGES_ALONE)
