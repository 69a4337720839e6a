"""The conditions of images in words, for people."""

from __future__ import annotations

from torch import Tensor

from ldm.batch import Fields
from ldm.conditioner.base import Conditioner
from ldm.conditioner.class_names import class_names


def in_words(fields: Fields, count: int, conditioner: Conditioner) -> list[str]:
    """Return a line for each image that describes its conditions; "" where they cannot be written in words.

    Args:
        fields: The fields of the images.
        count: Their number.
        conditioner: The conditioner that reads the fields, which knows the names of the classes or not.
    """
    if "caption" in fields:
        return [" ".join(str(caption).split()) for caption in fields["caption"]]
    if "label" in fields:
        names = class_names(conditioner, "label")
        return [names.in_words(int(label)) for label in fields["label"]]
    if "boxes" in fields and "boxes" in conditioner.inputs:
        names = class_names(conditioner, "boxes")
        return [
            ", ".join(f"{names.in_words(int(one[0]))} {_corners(one)}" for one in boxes if one[0] >= 0)
            for boxes in fields["boxes"]
        ]
    return [""] * count


def _corners(box: Tensor) -> str:
    return f"[{', '.join(f'{corner:.2f}' for corner in box[1:].tolist())}]"
