"""A map of classes as a condition."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.batch import Condition, Fields
from ldm.conditioner.base import SingleConditioner, without
from ldm.conditioner.maps import area_means, latent_size
from ldm.conditioner.value_range import ValueRange
from ldm.options.rule import COUNT, Optional, Whole, check


class SegmentationConditioner(SingleConditioner):
    """The shares of the classes at each place of the latent, through a learned 1 x 1 convolution, as a map beside x_t.

    The paper halves a one-hot map bilinearly, n times for f = 2^n, and then applies the convolution. Both are linear: a halving
    is the mean over 2 x 2 pixels, and the convolution of a one-hot map is a row of a table. So the rows are looked up for each
    pixel and their means taken, which gives the same map from `concat_channels` instead of `num_classes` channels.

    Args:
        num_classes: Number of classes; those in a map are 0, 1, ..., num_classes - 1.
        concat_channels: Channels of the map that the network gets.
        unlabelled: Number of the pixels of a map that belong to no class, like 255 in many data sets; their one-hot vector is
            zero, so that a place all of whose pixels are unlabelled is like a dropped map. None: all pixels have
            a class. A number below `num_classes` is then no class.
        drop_rate: Fraction of the training images whose classes are dropped, in [0, 1]; the map is then zero.

    References:
        Rombach et al., 2022, section 4.3.2 and appendix D.1, arXiv:2112.10752.
    """

    inputs = ("segmentation", "latent_size")

    def __init__(
        self, num_classes: int, *, concat_channels: int = 3, unlabelled: int | None = None, drop_rate: float = 0.0
    ) -> None:
        super().__init__(drop_rate=drop_rate)
        check("conditioner.num_classes", num_classes, COUNT)
        check("conditioner.concat_channels", concat_channels, COUNT)
        check("conditioner.unlabelled", unlabelled, Optional(Whole(0), "all pixels have a class"))
        self.num_classes = num_classes
        self.concat_channels = concat_channels
        self.unlabelled = unlabelled
        option = f"conditioner.num_classes={num_classes}"
        advice = "mend it, set a larger conditioner.num_classes, or conditioner.unlabelled where it means no class"
        self.ranges = (ValueRange("segmentation", 0, num_classes - 1, option, advice, also=unlabelled),)
        self.project = nn.Linear(num_classes, concat_channels, bias=False)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: the convolution is learned in training."""

    def encode(self, fields: Fields, dropped: Tensor) -> Condition:
        """Return the condition of `segmentation`, `(B, H, W)` int64: a map `(B, concat_channels, h, w)`."""
        classes = self.tensor(fields, "segmentation")
        if classes.ndim != 3 or classes.is_floating_point():
            raise ValueError(
                f"the field segmentation is a class for each pixel, (B, H, W), whole numbers; got {classes.dtype} "
                f"{tuple(classes.shape)}"
            )
        return Condition(concat=without(area_means(self._projected(classes), latent_size(fields)), dropped))

    def _projected(self, classes: Tensor) -> Tensor:
        """Return the convolution of the one-hot map of classes `(B, H, W)`, `(B, concat_channels, H, W)`."""
        if self.unlabelled is None:
            return F.embedding(classes, self.project.weight.t()).permute(0, 3, 1, 2)
        nothing = classes == self.unlabelled
        rows = F.embedding(classes.masked_fill(nothing, 0), self.project.weight.t())
        return rows.masked_fill(nothing[..., None], 0.0).permute(0, 3, 1, 2)
