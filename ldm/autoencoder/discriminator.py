"""The patch discriminator of the autoencoder's adversarial loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ldm.nn.blocks import check_groups
from ldm.options.rule import COUNT, check


class PatchDiscriminator(nn.Module):
    """A discriminator of overlapping image patches (PatchGAN), whose logits are positive for real patches.

    Batch norm is replaced by group norm, with as many parameters. The logits of an image then depend on that image
    alone, not on the rest of its batch or on its device.

    Args:
        channels: Channels after the first convolution; each further one doubles them, up to eight times as many.
        layers: Number of convolutions that halve the resolution: with more of them, patches are larger.
        groups: Groups of the group norms.

    Raises:
        ValueError: If an option is out of its range.

    References:
        Isola et al., 2017, section 3.2.2 and appendix 6.1.2, arXiv:1611.07004.
    """

    def __init__(self, *, channels: int = 64, layers: int = 3, groups: int = 32) -> None:
        super().__init__()
        for name, count in (("channels", channels), ("layers", layers), ("groups", groups)):
            check(f"stage.autoencoder.loss.discriminator.{name}", count, COUNT)
        widths = [channels * min(2**index, 8) for index in range(layers + 1)]
        check_groups(groups, widths[1:])
        stages: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index in range(1, layers + 1):
            stride = 2 if index < layers else 1
            stages += [
                nn.Conv2d(widths[index - 1], widths[index], 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(groups, widths[index]),
                nn.LeakyReLU(0.2),
            ]
        stages.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the patches.

        Args:
            image: Images, `(B, 3, H, W)`, in [-1, 1].

        Returns:
            The logits, `(B, 1, h', w')`.
        """
        logits: Tensor = self.stages(image)
        return logits


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the hinge loss of the discriminator, a scalar.

    Args:
        real: Its logits for real images, of any shape.
        fake: Its logits for reconstructions, of any shape.

    Returns:
        The loss, a scalar.

    References:
        Lim & Ye, 2017, eq. 7, arXiv:1705.02894.
    """
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
