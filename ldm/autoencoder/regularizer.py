"""The base classes of regularisers: how the raw latents of an autoencoder are kept in bounds, and what that costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn


class Encoding(ABC):
    """The raw latents of a batch of images, or a distribution over them.

    Attributes:
        moments: The numbers that are cached of it, `(B, M, h, w)`: a regulariser makes the same encoding of them again.
        mean: The mean raw latent, `(B, C, h, w)`, fp32.
    """

    moments: Tensor
    mean: Tensor

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw raw latents.

        Args:
            generator: Random generator; None: torch's global one.

        Returns:
            Raw latents, `(B, C, h, w)`, fp32.
        """


class Point(Encoding):
    """One raw latent for each image, without any spread.

    Args:
        raw: The raw latents, `(B, C, h, w)`.
        features: The encoder's own output, `(B, C, h, w)`, where a regulariser has changed it; None: `raw`.
    """

    def __init__(self, raw: Tensor, features: Tensor | None = None) -> None:
        self.moments = raw
        self.mean = raw.float()
        self.features = self.mean if features is None else features.float()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Return the raw latents; nothing is drawn."""
        return self.mean


class Penalty(NamedTuple):
    """The cost of the latents of a batch.

    Attributes:
        loss: The regulariser's part of the training loss, with its weight, a scalar.
        means: Name -> a scalar to be logged, a mean over the images of the batch.
        sums: Numbers to be added up over batches and processes, `(S,)`, from which `Regularizer.metrics_of` makes scores.
    """

    loss: Tensor
    means: Mapping[str, Tensor]
    sums: Tensor


AnyEncoding = TypeVar("AnyEncoding", bound=Encoding)


class Regularizer(nn.Module, ABC, Generic[AnyEncoding]):
    """The part between encoder and decoder that keeps raw latents in bounds."""

    moments_per_channel: ClassVar[int]
    """Numbers that the encoder gives for each channel of the raw latent."""

    metrics: ClassVar[Sequence[str]]
    """Names of all that is logged: of the means of a penalty, then of the scores made of its sums."""

    num_sums: int
    """Length S of the sums of a penalty; 0: there are none."""

    @abstractmethod
    def forward(self, moments: Tensor) -> AnyEncoding:
        """Return the encoding that the output of an encoder stands for.

        Args:
            moments: The encoder's output, `(B, M, h, w)`, or an encoding's `moments`, which were cached.
        """

    @abstractmethod
    def project(self, raw: Tensor, encoding: AnyEncoding | None = None) -> Tensor:
        """Return what the decoder takes in place of raw latents; differentiable.

        Args:
            raw: Raw latents, `(B, C, h, w)`, of an encoder or of a diffusion model.
            encoding: The encoding that they are the sample or the mean of, as `forward` gave it with the weights of now, so that
                nothing is computed twice; None: they are of no known encoding. The result is the same.

        Returns:
            Latents of the same shape.
        """

    @abstractmethod
    def penalty(self, encoding: AnyEncoding, values: int) -> Penalty:
        """Return the cost of an encoding.

        Args:
            encoding: The encoding of images, as `forward` gives it.
            values: Number of values of an image: the training loss is a mean over them.
        """

    @abstractmethod
    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Return name -> score, a scalar, made of the sums of penalties, `(S,)`."""

    @abstractmethod
    def after_batch(self, encoding: AnyEncoding, *, stepped: bool) -> None:
        """Learn without gradients from a training batch. All processes call it together, and stay equal.

        Args:
            encoding: The encoding of the batch of this process.
            stepped: Whether an optimiser step has just been made; only then may weights change.
        """

    @abstractmethod
    def initialize(self, layer: nn.Conv2d) -> None:
        """Set the initial weights of the layer that gives the moments; no random number may be drawn."""

    @abstractmethod
    def encoding_parts(self) -> Sequence[nn.Module]:
        """Return the modules that `forward` computes with."""
