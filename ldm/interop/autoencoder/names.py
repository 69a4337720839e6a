"""Tables of the names of an autoencoder's modules in another layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.interop.change import Change, Same
from ldm.interop.translation import Stem, stem, stems_inside

Half = Literal["encoder", "decoder"]
HALVES: tuple[Half, Half] = ("encoder", "decoder")


@dataclass(frozen=True)
class AutoencoderNames:
    """The names of an autoencoder's modules in another layout.

    Attributes:
        layout: Name of the layout, for messages.
        levels: "encoder" or "decoder" -> the list of its levels.
        from_image: Whether levels of the decoder are counted from the image down, and not in the order of their use.
        residuals: The list of residual blocks of a level.
        attentions: The list of attentions of a level.
        resample: "encoder" or "decoder" -> the convolution that changes the resolution of a level.
        middle: The residual block, the attention and the residual block at the lowest resolution.
        norm_out: The last norm of both halves.
        within_residual: The name of a module of our residual block -> theirs.
        within_attention: The name of a module of our attention -> theirs.
        projection: The conversion of the weights of our projections to queries, keys, values and out of attention.
    """

    layout: str
    levels: Mapping[Half, str]
    from_image: bool
    residuals: str
    attentions: str
    resample: Mapping[Half, str]
    middle: tuple[str, str, str]
    norm_out: str
    within_residual: Mapping[str, str]
    within_attention: Mapping[str, str]
    projection: Change

    def level(self, half: Half, index: int, levels: int) -> str:
        """Return their name of a level.

        Args:
            half: "encoder" or "decoder".
            index: Our index of it, in the order of use.
            levels: Number of levels.
        """
        mirrored = half == "decoder" and self.from_image
        return f"{half}.{self.levels[half]}.{levels - 1 - index if mirrored else index}"

    def stems(self, network: ConvAutoencoder) -> Iterator[Stem]:
        """Yield the name of each module, also of skips, attentions and changes of resolution that this network lacks."""
        for half in HALVES:
            levels = getattr(network, half).levels
            for index, level in enumerate(levels):
                ours, theirs = f"{half}.levels.{index}", self.level(half, index, len(levels))
                for place in range(len(level.residuals)):
                    yield from self._residual(f"{ours}.residuals.{place}", f"{theirs}.{self.residuals}.{place}")
                    yield from self._attention(f"{ours}.attentions.{place}", f"{theirs}.{self.attentions}.{place}")
                yield stem(f"{ours}.resample.conv", f"{theirs}.{self.resample[half]}")
            first, attention, second = self.middle
            yield from self._residual(f"{half}.middle.0", f"{half}.{first}")
            yield from self._attention(f"{half}.middle.1", f"{half}.{attention}")
            yield from self._residual(f"{half}.middle.2", f"{half}.{second}")
            yield stem(f"{half}.conv_in", f"{half}.conv_in")
            yield stem(f"{half}.norm_out", f"{half}.{self.norm_out}")
            yield stem(f"{half}.conv_out", f"{half}.conv_out")
        yield stem("to_moments", "quant_conv")
        yield stem("from_raw", "post_quant_conv")
        yield stem("regularizer.codebook", "quantize.embedding")

    def _residual(self, ours: str, theirs: str) -> Iterator[Stem]:
        yield from stems_inside(self.within_residual, ours, theirs)

    def _attention(self, ours: str, theirs: str) -> Iterator[Stem]:
        for own, other in self.within_attention.items():
            change = Same() if own == "norm" else self.projection
            yield stem(f"{ours}.{own}", f"{theirs}.{other}", change)
