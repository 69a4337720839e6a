"""Tables of the names of a U-Net's modules in another layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch

from ldm.backbone.unet import UNet, UNetBlock, UNetLevel
from ldm.interop.change import Change, Pointwise, Same
from ldm.interop.translation import Stem, Translation, stem, stems_inside
from ldm.nn.attention import MapAttention, MapTransformer

TRANSFORMER: Mapping[str, str] = {
    "norm_self": "norm1",
    "attend_self.query": "attn1.to_q",
    "attend_self.key": "attn1.to_k",
    "attend_self.value": "attn1.to_v",
    "attend_self.out": "attn1.to_out.0",
    "norm_cross": "norm2",
    "attend_cross.query": "attn2.to_q",
    "attend_cross.key": "attn2.to_k",
    "attend_cross.value": "attn2.to_v",
    "attend_cross.out": "attn2.to_out.0",
    "norm_feed": "norm3",
    "feed.0.project": "ff.net.0.proj",
    "feed.1": "ff.net.2",
}
"""Modules of a transformer block: ours -> theirs, in both layouts."""


class StagePlace(NamedTuple):
    """The names of a stage in another layout.

    Attributes:
        residual: The residual block.
        attention: The attention behind it, where there is one.
    """

    residual: str
    attention: str


class UNetNames(ABC):
    """The names of a U-Net's modules in another layout.

    Args:
        levels: Number of levels.
        blocks: Residual blocks of a level on the down path.
        linear: Whether the projections around transformer blocks are linear layers, and not 1 x 1 convolutions.
    """

    layout: ClassVar[str]
    """Name of the layout, for messages."""

    top: ClassVar[Mapping[str, str]]
    """Modules outside of levels: ours -> theirs."""

    within_residual: ClassVar[Mapping[str, str]]
    """Modules of a residual block: ours -> theirs."""

    def __init__(self, levels: int, blocks: int, *, linear: bool) -> None:
        self.levels = levels
        self.blocks = blocks
        self.linear = linear

    @abstractmethod
    def down(self, level: int, stage: int) -> StagePlace:
        """Return the names of a stage of the down path."""

    @abstractmethod
    def middle(self, stage: int) -> StagePlace:
        """Return the names of a stage of the middle."""

    @abstractmethod
    def up(self, level: int, stage: int) -> StagePlace:
        """Return the names of a stage of the up path; level 0 is the first one that is used, the lowest."""

    @abstractmethod
    def downsample(self, level: int, *, residual: bool) -> str:
        """Return the name of the convolution, or of the residual block, behind a level of the down path."""

    @abstractmethod
    def upsample(self, level: int, *, residual: bool, attends: bool) -> str:
        """Return the name of the convolution, or of the residual block, behind a level of the up path."""

    @abstractmethod
    def self_attention(self, attention: MapAttention, ours: str, theirs: str) -> Iterator[Stem]:
        """Yield the stems of an attention that has no tokens to attend to."""

    def stems(self, network: UNet) -> Iterator[Stem]:
        """Yield the name of each module of a network."""
        for ours, theirs in self.top.items():
            yield stem(ours, theirs)
        for index, level in enumerate(network.down):
            assert isinstance(level, UNetLevel)
            for place, stage in enumerate(level.stages):
                yield from self._stage(stage, f"down.{index}.stages.{place}", self.down(index, place))
            residual = not hasattr(level.resample, "conv")
            yield from self._resample(
                f"down.{index}.resample", self.downsample(index, residual=residual), residual=residual
            )
        for place, stage in enumerate(network.middle):
            yield from self._stage(stage, f"middle.{place}", self.middle(place))
        for index, level in enumerate(network.up):
            assert isinstance(level, UNetLevel)
            for place, stage in enumerate(level.stages):
                yield from self._stage(stage, f"up.{index}.stages.{place}", self.up(index, place))
            residual = not hasattr(level.resample, "conv")
            last = level.stages[-1]
            assert isinstance(last, UNetBlock)
            theirs = self.upsample(index, residual=residual, attends=last.attention is not None)
            yield from self._resample(f"up.{index}.resample", theirs, residual=residual)

    def translation(self, network: UNet) -> Translation:
        """Return the translation of a network, which may be on the meta device.

        Raises:
            ValueError: If the layout has no place for a part of it.
        """
        embedded = {"pool_tokens": ("pool", network.pool), "vector_width": ("vector", network.vector)}
        used = {option: self.top.get(f"{name}.0") for option, (name, part) in embedded.items() if part is not None}
        if None in used.values() or len(set(used.values())) < len(used):
            raise ValueError(f"the layout of {self.layout} has no place for backbone.{' and backbone.'.join(used)}")
        return Translation(network, self.stems(network), layout=self.layout)

    def _resample(self, ours: str, theirs: str, *, residual: bool) -> Iterator[Stem]:
        if residual:
            yield from stems_inside(self.within_residual, ours, theirs)
        else:
            yield stem(f"{ours}.conv", theirs)

    def _stage(self, stage: Any, ours: str, theirs: StagePlace) -> Iterator[Stem]:
        yield from stems_inside(self.within_residual, f"{ours}.residual", theirs.residual)
        if isinstance(stage.attention, MapTransformer):
            yield from self._transformer(f"{ours}.attention", theirs.attention, len(stage.attention.blocks))
        elif stage.attention is not None:
            yield from self.self_attention(stage.attention, f"{ours}.attention", theirs.attention)

    def _transformer(self, ours: str, theirs: str, depth: int) -> Iterator[Stem]:
        projection: Change = Same() if self.linear else Pointwise(2)
        yield stem(f"{ours}.norm", f"{theirs}.norm")
        yield stem(f"{ours}.into", f"{theirs}.proj_in", projection)
        yield stem(f"{ours}.out", f"{theirs}.proj_out", projection)
        for block in range(depth):
            yield from stems_inside(TRANSFORMER, f"{ours}.blocks.{block}", f"{theirs}.transformer_blocks.{block}")


def empty_unet(options: Mapping[str, Any]) -> UNet:
    """Return a U-Net of these options without any memory for its weights."""
    with torch.device("meta"):
        return UNet(**{name: value for name, value in options.items() if name != "_target_"})
