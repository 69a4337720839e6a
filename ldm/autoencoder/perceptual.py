"""A perceptual distance between images, for the autoencoder's loss."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)
TAPS = (4, 9, 16, 23, 30)
"""Number of layers of VGG16 after which features are compared: the last ReLU before each pooling."""


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity on VGG16 features. Never trained; gradients flow to the images.

    vgg16   file of torchvision's VGG16 weights (`vgg16-397923af.pth`); only its convolutions are read
    linear  file of the learned weights of the channels (`vgg.pth` of the package lpips, version 0.1)

    Raises FileNotFoundError where a file is missing. Paper: Zhang et al., 2018, section 3, arXiv:1801.03924.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, vgg16: str | Path, linear: str | Path) -> None:
        super().__init__()
        self.features = vgg16_features()
        self.weights = nn.ParameterList(nn.Parameter(torch.zeros(1, width, 1, 1)) for width in (64, 128, 256, 512, 512))
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        trained = _read(vgg16)
        self.features.load_state_dict(
            {name.removeprefix("features."): value for name, value in trained.items() if name.startswith("features.")}
        )
        for weight, value in zip(self.weights, _read(linear).values(), strict=True):
            weight.data.copy_(value)
        self.requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two batches `(B, 3, H, W)` in [-1, 1] -> distance `(B,)`, not negative."""
        distance = a.new_zeros(a.shape[0], dtype=torch.float32)
        for weight, x, y in zip(self.weights, self._taps(a), self._taps(b), strict=True):
            distance = distance + (weight * (x - y).square()).sum(1).mean((1, 2))
        return distance

    def _taps(self, image: Tensor) -> list[Tensor]:
        x = (image.float() - self.mean) / self.deviation
        taps = []
        for number, layer in enumerate(self.features, start=1):
            x = layer(x)
            if number in TAPS:
                taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps


def vgg16_features() -> nn.Sequential:
    """The convolutional part of VGG16, its layers numbered as in torchvision. Paper: Simonyan & Zisserman, 2015."""
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG16:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _read(file: str | Path) -> dict[str, Tensor]:
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"no weights at {file}; LPIPS needs vgg16-397923af.pth of torchvision and vgg.pth of the package lpips as local "
            "files, or train without it: stage.autoencoder.loss.perceptual=null"
        )
    return torch.load(file, map_location="cpu", weights_only=True)
