"""The class of an image as a condition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ldm.batch import Condition, Fields, tensor_field
from ldm.conditioner.base import SingleConditioner, on_device
from ldm.conditioner.class_names import ClassNames
from ldm.conditioner.value_range import ValueRange
from ldm.options.rule import COUNT, Optional, check


class LabelConditioner(SingleConditioner):
    """A learned embedding of the class, as one token or as a vector; one more class says nothing.

    Args:
        num_classes: Number of classes; labels are 0, 1, ..., num_classes - 1.
        width: Width of the embedding, which is one token for cross-attention; None: it is a vector.
        vector_width: Width of the embedding, which is a vector that goes beside the timestep (Dhariwal & Nichol, 2021,
            section 4, arXiv:2105.05233); None: it is a token. Give this or `width`.
        drop_rate: Fraction of the training images whose class is dropped, in [0, 1].
        names: The name of each class, in the order of their numbers, or a text file of them, one a line; None: there are none.

    Raises:
        ValueError: Where not exactly one of the widths is given.

    References:
        Rombach et al., 2022, section 4.1 and appendix E.2.1, arXiv:2112.10752.
    """

    inputs = ("label",)

    def __init__(
        self,
        num_classes: int,
        *,
        width: int | None = None,
        vector_width: int | None = None,
        drop_rate: float = 0.1,
        names: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.num_classes", num_classes, COUNT)
        check("conditioner.width", width, Optional(COUNT, "the class is a vector"))
        check("conditioner.vector_width", vector_width, Optional(COUNT, "the class is a token"))
        if (width is None) == (vector_width is None):
            raise ValueError(
                f"the class is a token, conditioner.width, or a vector, conditioner.vector_width; give one of them; got {width} "
                f"and {vector_width}"
            )
        self.num_classes = num_classes
        self.ranges = (label_range(num_classes, of="conditioner"),)
        self.width = width
        self.vector_width = vector_width
        self.class_names = ClassNames(names, field="label", count=num_classes, exact=True)
        self.embed = nn.Embedding(num_classes + 1, width or vector_width or 1)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Read the names of the classes, if they are in a file; the embedding is learned in training."""
        self.class_names.load()

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `label`, `(B,)`: tokens `(B, 1, width)`, or a vector `(B, vector_width)`."""
        labels = labels_of(fields).to(self.place.device)
        embedded: Tensor = self.embed(labels.masked_fill(on_device(dropped, labels.device), self.num_classes))
        return Condition(vector=embedded) if self.width is None else Condition(tokens=embedded[:, None])


def label_range(num_classes: int, *, of: str) -> ValueRange:
    """Return the labels that there are.

    Args:
        num_classes: Number of classes; labels are 0, 1, ..., num_classes - 1.
        of: Group of the option `num_classes`.
    """
    option = f"{of}.num_classes"
    return ValueRange("label", 0, num_classes - 1, f"{option}={num_classes}", f"mend it, or set a larger {option}")


def labels_of(fields: Fields) -> Tensor:
    """Return the labels, `(B,)` int64, of a tensor or of a list of numbers.

    Raises:
        ValueError: Where they are no whole numbers, one for each image.
    """
    given = fields.get("label")
    labels = torch.tensor(given) if isinstance(given, list) else tensor_field(fields, "label")
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"the field label is a whole number for each image, (B,); got {labels.dtype} {tuple(labels.shape)}"
        )
    return labels.long()
