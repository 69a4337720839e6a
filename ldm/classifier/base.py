"""The base class of classifiers of noisy latents. They know neither Lightning nor Hydra."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Batch, Fields
from ldm.classifier.encoder_unet import EncoderUNet
from ldm.conditioner.base import Reader
from ldm.diffusion.schedule import Schedule
from ldm.diffusion.timestep_sampler import TimestepSampler


class NoisyClassifier(nn.Module, ABC):
    """A classifier of noisy latents, which predicts what is said of the image of a noisy latent x_t.

    It is trained at the timesteps that a diffusion model is trained at. Answers have no weights, because guidance needs
    true probabilities.

    Args:
        autoencoder: The autoencoder of the model that is to be guided, finished. It is frozen.
        network: The network, `(x_t, t)` -> features.
        schedule: The noise schedule of the model that is to be guided.
        timestep_sampler: The timestep sampler.
        outputs: Number of logits.
        size: Height and width of the training images in pixels; one number for squares.

    Attributes:
        inputs: Names of the fields that have the answers.
        measure: Name of the share of right answers that validation logs.

    Raises:
        ValueError: If the autoencoder or the network cannot divide the image size.

    References:
        Dhariwal & Nichol, 2021, section 4, arXiv:2105.05233; Rombach et al., 2022, appendix C, arXiv:2112.10752.
    """

    inputs: ClassVar[tuple[str, ...]]
    measure: ClassVar[str]

    def __init__(
        self,
        autoencoder: Autoencoder,
        network: EncoderUNet,
        schedule: Schedule,
        *,
        timestep_sampler: TimestepSampler,
        outputs: int,
        size: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.network = network
        self.schedule = schedule
        self.timestep_sampler = timestep_sampler
        self.head = nn.Linear(network.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._joined: tuple[nn.Module, ...] = ()
        self.check_size(size)

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """The part that reads the answers, and may learn from samples of them before training."""

    @classmethod
    @abstractmethod
    def how_to_train(cls, options: str) -> str:
        """Return the command that trains a classifier of this kind.

        Args:
            options: Options that name the model that it shall guide, as they are typed.
        """

    @abstractmethod
    def targets(self, fields: Fields) -> Tensor:
        """Return 1 for the answers that are right and 0 for the others, `(B, answers)`."""

    @abstractmethod
    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood of the answers in nats, of each image, `(B,)`."""

    @abstractmethod
    def log_likelihood(self, x_t: Tensor, t: Tensor, fields: Fields) -> Tensor:
        """Return log p(fields | x_t), differentiable.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`.
            fields: The wanted fields of the images: those that `reader` reads, and others.

        Returns:
            The log-likelihoods, `(B,)`.

        Raises:
            ValueError: If a field that it needs is missing, or has a value that it does not know.
        """

    def train(self, mode: bool = True) -> NoisyClassifier:
        """Set the training mode; the frozen autoencoder stays in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def check_size(self, size: int | Sequence[int]) -> None:
        """Raise ValueError where the autoencoder or the network cannot divide an image size."""
        self.autoencoder.check_size(size, multiple=self.network.downsampling_factor)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits of the answers.

        Args:
            x_t: Noisy latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`, in [0, 1].

        Returns:
            The logits, `(B, answers)`, fp32.
        """
        logits: Tensor = self.head(self.network(x_t, t)).float()
        return logits

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of each image.

        The latents, the timesteps and the noise are drawn from torch's global generator.

        Args:
            batch: Images or cached moments, with the fields that `reader` reads.

        Returns:
            The losses, `(B,)`.
        """
        x = self.autoencoder.latent(batch)
        t = self.timestep_sampler.sample(len(x), self.schedule, x.device)
        targets = self.targets(batch.fields)
        return self.losses(self(self.noisy(x, t), t), targets)

    def noisy(self, x: Tensor, t: Tensor) -> Tensor:
        """Add the noise of timesteps to latents; it is drawn from torch's global generator.

        Args:
            x: Clean latents, `(B, C, h, w)`.
            t: Timesteps, `(B,)`.

        Returns:
            Noisy latents, `(B, C, h, w)`.
        """
        alpha, sigma = (part[:, None, None, None] for part in self.schedule.alpha_sigma(t))
        return alpha * x + sigma * torch.randn_like(x)

    def join(self, autoencoder: Autoencoder, schedule: Schedule) -> None:
        """Prepare to guide a model with this autoencoder and this noise schedule, on the model's device.

        Args:
            autoencoder: The autoencoder of the model.
            schedule: The noise schedule of the model.

        Raises:
            ValueError: If the classifier was trained with other latents or another noise schedule.
        """
        assert isinstance(autoencoder, Autoencoder)
        if self._joined == (autoencoder, schedule):
            return  # the comparison reads all weights: once is enough
        own = self.autoencoder.to(autoencoder.shift.device)
        if not own.same_latents(autoencoder):
            raise ValueError(
                f"the classifier was trained on latents of the encoder {own.encoder_hash}, but the model has "
                f"{autoencoder.encoder_hash}, or another shift and scale of them; "
                f"{self.how_to_train('autoencoder.ckpt=...')}"
            )
        if (t := self.schedule.first_mismatch(schedule)) is not None:
            time = torch.tensor(t, dtype=torch.float64)
            (alpha, sigma), (wanted, noise) = self.schedule.exact(time), schedule.exact(time)
            raise ValueError(
                f"at t = {t:.1f} the classifier was trained with alpha and sigma {alpha:.4f} and {sigma:.4f}, but the model with "
                f"{wanted:.4f} and {noise:.4f}; {self.how_to_train('autoencoder.ckpt=... schedule=...')}"
            )
        self.to(autoencoder.shift.device)
        self._joined = (autoencoder, schedule)


def how_to_train(options: str, own: str) -> str:
    """Return the command that trains a classifier on the data of the model that it will guide.

    Args:
        options: The experiment, and options that name this model, as they are typed.
        own: Options to add for data of one's own.
    """
    command = f"python train.py {options}"
    return (
        f"train one on the data of the model that it shall guide: {command} data=shards data.train=... data.val=... "
        f"data.size=... {own}, or for the embedded icons {command}"
    )
