"""A classifier that predicts the class of the image of a noisy latent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Fields
from ldm.classifier.base import NoisyClassifier, how_to_train
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.conditioner.base import Reader, on_device
from ldm.conditioner.label import label_range, labels_of
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.timestep_sampler import TimestepSampler
from ldm.options.rule import Whole, check


class Labels(Reader):
    """The classes of images; nothing about them has to be learned before training.

    Args:
        num_classes: Number of classes; labels are 0, 1, ..., num_classes - 1.
    """

    inputs = ("label",)

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check("model.num_classes", num_classes, Whole(2))
        self.ranges = (label_range(num_classes, of="model"),)

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Do nothing: a class is its number."""


class LabelClassifier(NoisyClassifier):
    """A class classifier, which predicts the class of a noisy latent x_t. It is trained by the cross-entropy.

    Args:
        autoencoder: See `NoisyClassifier`.
        network: See `NoisyClassifier`.
        schedule: See `NoisyClassifier`.
        timestep_sampler: See `NoisyClassifier`.
        num_classes: Number of classes; labels are 0, 1, ..., num_classes - 1.
        size: See `NoisyClassifier`.

    References:
        Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233; Rombach et al., 2022, appendices C and D.4, arXiv:2112.10752.
    """

    inputs = Labels.inputs
    measure = "accuracy"

    def __init__(
        self,
        autoencoder: Autoencoder,
        network: EncoderUNet,
        schedule: Schedule,
        *,
        timestep_sampler: TimestepSampler,
        num_classes: int,
        size: int | Sequence[int],
    ) -> None:
        labels = Labels(num_classes)
        super().__init__(
            autoencoder, network, schedule, timestep_sampler=timestep_sampler, outputs=num_classes, size=size
        )
        self.labels = labels

    @property
    def reader(self) -> Labels:
        """The part that reads the classes."""
        return self.labels

    @classmethod
    def how_to_train(cls, options: str) -> str:
        """See `NoisyClassifier.how_to_train`."""
        return how_to_train(
            f"experiment=label_classifier {options}",
            "stage=classifier classifier=encoder_unet model.num_classes=1000",
        )

    def targets(self, fields: Fields) -> Tensor:
        """Return 1 for the class of each image and 0 for the others, `(B, num_classes)`."""
        labels = on_device(labels_of(fields), self.head.weight.device)
        return F.one_hot(labels, self.head.out_features).float()

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy in nats of each image, `(B,)`."""
        return F.cross_entropy(logits, targets, reduction="none")

    def log_likelihood(self, x_t: Tensor, t: Tensor, fields: Fields) -> Tensor:
        """Return log p(label | x_t), `(B,)`; see `NoisyClassifier.log_likelihood`."""
        return -self.losses(self(x_t, t), self.targets(fields))
