"""The conditions of images in words, for people."""

from __future__ import annotations

from torch import nn

from ldm.batch import Fields
from ldm.conditioner.class_names import class_names


def in_words(fields: Fields, count: int, conditioner: nn.Module) -> list[str]:
    """Return a line for each image that describes its conditions; "" where they cannot be written in words.

    Args:
        fields: The fields of the images.
        count: Their number.
        conditioner: The conditioner that is told the fields, which knows the names of the classes or not.
    """
    if "caption" in fields:
        return [" ".join(str(caption).split()) for caption in fields["caption"]]
    if "label" in fields:
        names = class_names(conditioner, "label")
        return [names.in_words(int(label)) for label in fields["label"]]
    return [""] * count
