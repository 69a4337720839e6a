"""LPIPS: a perceptual distance between images."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm.pretrained.catalogue import VGG16_WEIGHTS

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
TAPS = (4, 9, 16, 23, 30)
"""Number of layers of VGG16 after which features are compared: the last ReLU before each pooling."""

WHAT_TO_DO = (
    "bring it here with python -m ldm.fetch lpips, give it as perceptual.vgg16=FILE, or leave it out: perceptual=none"
)

LINEAR = "functional/image/lpips_models/vgg.pth"
"""The learned weights of the channels (LPIPS version 0.1), a file inside the package torchmetrics."""


class LPIPSNetwork(nn.Module):
    """The network of LPIPS with random weights; `LPIPS` has the trained ones. It is never trained; gradients flow to images."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg16_features()
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(1, width, 1, 1)) for width in (64, 128, 256, 512, 512))
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distance between the images of two batches, pair by pair.

        Args:
            a: Images `(B, 3, H, W)` in [-1, 1].
            b: Images of the same shape.

        Returns:
            Distances `(B,)` in float32, 0 or greater.
        """
        distance = a.new_zeros(a.shape[0], dtype=torch.float32)
        for weight, x, y in zip(self.weights, self._taps(a), self._taps(b), strict=True):
            distance = distance + (weight * (x - y).square()).sum(1).mean((1, 2))
        return distance

    def _taps(self, image: Tensor) -> list[Tensor]:
        x = (image.float() - self.mean) / self.std
        taps = []
        for number, layer in enumerate(self.features, start=1):
            x = layer(x)
            if number in TAPS:
                taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps


class LPIPS(LPIPSNetwork):
    """Measure how differently two images look: learned perceptual image patch similarity on VGG16 features.

    It is never trained; gradients flow to the images. The learned weights of the channels come with torchmetrics, so that
    only those of VGG16 are needed.

    Args:
        vgg16: File of torchvision's VGG16 weights (`vgg16-397923af.pth`), of which only the convolutions are read; None: the one
            in torch's cache. Where there is none it is downloaded, and checked by its hash.

    Raises:
        FileNotFoundError: Where the file is missing, and cannot be downloaded.

    References:
        Zhang et al., 2018, section 3, arXiv:1801.03924.
    """

    def __init__(self, *, vgg16: str | Path | None = None) -> None:
        super().__init__()
        trained = _read_vgg16(cached_vgg16() if vgg16 is None else vgg16)
        self.features.load_state_dict(
            {name.removeprefix("features."): value for name, value in trained.items() if name.startswith("features.")}
        )
        for weight, value in zip(self.weights, read_linear().values(), strict=True):
            weight.data.copy_(value)


def vgg16_features() -> nn.Sequential:
    """Return the convolutional part of VGG16 with random weights, its layers numbered as in torchvision.

    References:
        Simonyan & Zisserman, 2015, arXiv:1409.1556.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def read_linear() -> dict[str, Tensor]:
    """Read the learned weights of the channels, `(1, C, 1, 1)` for each of the five layers that are compared.

    Raises:
        FileNotFoundError: Where the installed torchmetrics comes without them.
    """
    try:
        with files("torchmetrics").joinpath(LINEAR).open("rb") as file:
            weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
            return weights
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the installed torchmetrics has no {LINEAR}, from which LPIPS takes its learned weights; install torchmetrics 1.9"
        ) from error


def cached_vgg16() -> Path:
    """Return the file of torchvision's VGG16 weights in torch's cache; download it where it is not there.

    Raises:
        FileNotFoundError: Where it cannot be downloaded.
    """
    try:
        return VGG16_WEIGHTS.load()
    except OSError as error:
        raise FileNotFoundError(f"LPIPS {VGG16_WEIGHTS.needed(error)}; {WHAT_TO_DO}") from error


def _read_vgg16(file: str | Path) -> dict[str, Tensor]:
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"no weights at {file}; LPIPS needs {VGG16_WEIGHTS.target} of torchvision: {WHAT_TO_DO}"
        )
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights
