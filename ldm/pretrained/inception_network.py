"""The Inception v3 network of 2015-12-05, whose features FID is computed on.

It differs from later ones in its poolings. Modules have the names of the published PyTorch weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 1008


class ConvSpec(NamedTuple):
    """A convolution without bias, with batch norm and ReLU behind it. Padding keeps the size, unless it has a stride.

    Attributes:
        name: Name of the module.
        channels: Channels of the result.
        kernel: Height and width of the kernel, one number for squares.
        stride: Step between places; with 2 there is no padding.
    """

    name: str
    channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1


class BranchSpec(NamedTuple):
    """A branch of a block.

    Attributes:
        chain: Convolutions, one after the other.
        ends: Convolutions side by side behind them, whose results are stacked; none: the chain's result.
    """

    chain: Sequence[ConvSpec]
    ends: Sequence[ConvSpec] = ()


class ConvNormReLU(nn.Module):
    """A convolution, batch norm and ReLU.

    Args:
        inputs: Channels of the input.
        channels: Channels of the result.
        kernel: Height and width of the kernel, one number for squares.
        stride: Step between places.
        padding: Rows and columns of zeros around the input.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, channels, h, w)` for `(B, inputs, H, W)`."""
        return F.relu(self.bn(self.conv(x)))


class MixedBlock(nn.Module):
    """Branches of convolutions beside a pooling, whose results are stacked in this order.

    Args:
        inputs: Channels of the input.
        branches: The branches.
        pool: The pooling.
        pooled: Channels of the convolution of 1 x 1 behind the pooling; 0: there is none.
    """

    def __init__(self, inputs: int, branches: Sequence[BranchSpec], pool: nn.Module, *, pooled: int = 0) -> None:
        super().__init__()
        self.branches = branches
        self.pool = pool
        self.channels = pooled or inputs
        for branch in branches:
            width = inputs
            for spec in branch.chain:
                self._add(width, spec)
                width = spec.channels
            for spec in branch.ends:
                self._add(width, spec)
            self.channels += sum(spec.channels for spec in branch.ends) or width
        self.branch_pool = ConvNormReLU(inputs, pooled, 1) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, channels, h, w)` for `(B, inputs, H, W)`."""
        found = []
        for branch in self.branches:
            y = x
            for spec in branch.chain:
                y = self.get_submodule(spec.name)(y)
            found += [self.get_submodule(spec.name)(y) for spec in branch.ends] or [y]
        return torch.cat([*found, self.branch_pool(self.pool(x))], 1)

    def _add(self, width: int, spec: ConvSpec) -> None:
        sides = (spec.kernel, spec.kernel) if isinstance(spec.kernel, int) else spec.kernel
        padding = (sides[0] // 2, sides[1] // 2) if spec.stride == 1 else 0
        self.add_module(spec.name, ConvNormReLU(width, spec.channels, sides, stride=spec.stride, padding=padding))


class InceptionV3(nn.Module):
    """The network with random weights; `ldm.pretrained.inception.Inception` has the trained ones.

    References:
        Szegedy et al., 2016, table 1, arXiv:1512.00567.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, 3)
        self.Mixed_5b = _square(192, pooled=32)
        self.Mixed_5c = _square(256, pooled=64)
        self.Mixed_5d = _square(288, pooled=64)
        self.Mixed_6a = _halving(288)
        self.Mixed_6b = _factorized(128)
        self.Mixed_6c = _factorized(160)
        self.Mixed_6d = _factorized(160)
        self.Mixed_6e = _factorized(192)
        self.Mixed_7a = _last_halving(768)
        self.Mixed_7b = _expanded(1280, _mean_pool())
        self.Mixed_7c = _expanded(2048, nn.MaxPool2d(3, 1, 1))
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features before the classes.

        Args:
            images: `(B, 3, 299, 299)`, about in [-1, 1].

        Returns:
            `(B, 2048)`.
        """
        x = self.Mixed_6e(self.Mixed_6d(self._to_mixed_6c(images)))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def maps(self, images: Tensor) -> Tensor:
        """Return features of places: the first branch of the block that TensorFlow's graph calls mixed_6.

        Args:
            images: `(B, 3, 299, 299)`, about in [-1, 1].

        Returns:
            `(B, 192, 17, 17)`.
        """
        found: Tensor = self.Mixed_6d.get_submodule("branch1x1")(self._to_mixed_6c(images))
        return found

    def _to_mixed_6c(self, images: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        found: Tensor = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        return found


def _mean_pool() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _square(inputs: int, *, pooled: int) -> MixedBlock:
    """Return a block with kernels of 5 x 5, and of 3 x 3 twice (figure 5)."""
    double = [ConvSpec("branch3x3dbl_1", 64), ConvSpec("branch3x3dbl_2", 96, 3), ConvSpec("branch3x3dbl_3", 96, 3)]
    branches = [
        BranchSpec([ConvSpec("branch1x1", 64)]),
        BranchSpec([ConvSpec("branch5x5_1", 48), ConvSpec("branch5x5_2", 64, 5)]),
        BranchSpec(double),
    ]
    return MixedBlock(inputs, branches, _mean_pool(), pooled=pooled)


def _halving(inputs: int) -> MixedBlock:
    """Return a block that halves the size (figure 10)."""
    double = [ConvSpec("branch3x3dbl_1", 64), ConvSpec("branch3x3dbl_2", 96, 3), ConvSpec("branch3x3dbl_3", 96, 3, 2)]
    return MixedBlock(inputs, [BranchSpec([ConvSpec("branch3x3", 384, 3, 2)]), BranchSpec(double)], nn.MaxPool2d(3, 2))


def _factorized(width: int) -> MixedBlock:
    """Return a block with kernels of 7 x 7, each as 1 x 7 and 7 x 1 (figure 6)."""
    single = [
        ConvSpec("branch7x7_1", width),
        ConvSpec("branch7x7_2", width, (1, 7)),
        ConvSpec("branch7x7_3", 192, (7, 1)),
    ]
    double = [
        ConvSpec("branch7x7dbl_1", width),
        ConvSpec("branch7x7dbl_2", width, (7, 1)),
        ConvSpec("branch7x7dbl_3", width, (1, 7)),
        ConvSpec("branch7x7dbl_4", width, (7, 1)),
        ConvSpec("branch7x7dbl_5", 192, (1, 7)),
    ]
    branches = [BranchSpec([ConvSpec("branch1x1", 192)]), BranchSpec(single), BranchSpec(double)]
    return MixedBlock(768, branches, _mean_pool(), pooled=192)


def _last_halving(inputs: int) -> MixedBlock:
    """Return the second block that halves the size."""
    long = [
        ConvSpec("branch7x7x3_1", 192),
        ConvSpec("branch7x7x3_2", 192, (1, 7)),
        ConvSpec("branch7x7x3_3", 192, (7, 1)),
        ConvSpec("branch7x7x3_4", 192, 3, 2),
    ]
    short = [ConvSpec("branch3x3_1", 192), ConvSpec("branch3x3_2", 320, 3, 2)]
    return MixedBlock(inputs, [BranchSpec(short), BranchSpec(long)], nn.MaxPool2d(3, 2))


def _expanded(inputs: int, pool: nn.Module) -> MixedBlock:
    """Return a block whose branches end side by side (figure 7)."""
    branches = [
        BranchSpec([ConvSpec("branch1x1", 320)]),
        BranchSpec(
            [ConvSpec("branch3x3_1", 384)],
            [ConvSpec("branch3x3_2a", 384, (1, 3)), ConvSpec("branch3x3_2b", 384, (3, 1))],
        ),
        BranchSpec(
            [ConvSpec("branch3x3dbl_1", 448), ConvSpec("branch3x3dbl_2", 384, 3)],
            [ConvSpec("branch3x3dbl_3a", 384, (1, 3)), ConvSpec("branch3x3dbl_3b", 384, (3, 1))],
        ),
    ]
    return MixedBlock(inputs, branches, pool, pooled=192)
