"""A backbone without levels: residual blocks at the resolution of the latent."""

from __future__ import annotations

from torch import Tensor, nn

from ldm.backbone.base import Backbone
from ldm.batch import Condition
from ldm.nn.blocks import ResidualBlock
from ldm.nn.embedding import sinusoidal

TIME_STEPS = 1000
"""Factor by which times in [0, 1] are multiplied before they are embedded."""


class ResNet(Backbone):
    """A stack of residual blocks, all of one width.

    Args:
        in_channels: Channels of x_t.
        out_channels: Channels of the prediction.
        channels: Channels of the blocks.
        blocks: Number of blocks.
        vector_width: Width of the condition's vector.
        groups: Groups of the group norms.
    """

    downsampling_factor = 1

    def __init__(
        self, *, in_channels: int, out_channels: int, channels: int, blocks: int, vector_width: int, groups: int
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.deepest_channels = channels
        self.time = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.vector = nn.Linear(vector_width, channels)
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, channels, embedding_width=channels, groups=groups, zero_init=True)
            for _ in range(blocks)
        )
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    @property
    def deepest(self) -> nn.Module:
        """The block in the middle."""
        return self.blocks[len(self.blocks) // 2]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Return the prediction, `(B, out_channels, h, w)`; see `Backbone.forward`."""
        if condition.vector is None:
            raise ValueError("this backbone reads the vector of a condition; choose a conditioner that gives one")
        embedding = self.time(sinusoidal(t * TIME_STEPS, self.deepest_channels)) + self.vector(condition.vector)
        x = self.conv_in(x_t)
        for block in self.blocks:
            x = block(x, embedding)
        return self.conv_out(x)
