"""The wishes of a user who has other people's weights read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ldm.interop.conventions import Conventions
from ldm.options.rule import COUNT, FLAG, POSITIVE, Optional, check


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """The options of reading other people's weights; None means that the files say it.

    Attributes:
        experiment: Name of an experiment whose conventions hold (`as=`).
        config: The yaml of CompVis' programs that belongs to the file.
        tokenizer: Folder, file or hub name of the tokenizer.
        prediction: The node of the prediction.
        size: Height and width of the images of training, in pixels.
        heads: Heads of the U-Net's attention.
        head_channels: Channels of each head; give this or `heads`.
        scale: The number that latents are multiplied with.
        averaged: Whether averaged weights (EMA) are taken where there are some.

    Raises:
        ValueError: If an option is out of its range.
    """

    experiment: str | None = None
    config: str | None = None
    tokenizer: str | None = None
    prediction: Mapping[str, Any] | None = None
    size: int | None = None
    heads: int | None = None
    head_channels: int | None = None
    scale: float | None = None
    averaged: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("size", "heads", "head_channels"):
            check(name, getattr(self, name), Optional(COUNT, "the files say it"))
        check("scale", self.scale, Optional(POSITIVE, "the files say it"))
        check("averaged", self.averaged, FLAG)
        if self.heads is not None and self.head_channels is not None:
            raise ValueError(f"give heads or head_channels, not both; got {self.heads} and {self.head_channels}")

    @property
    def given(self) -> list[str]:
        """The names of the options that say what files may not tell, and are given."""
        options = {"as": self.experiment} | {
            name: getattr(self, name) for name in ("config", "prediction", "size", "heads", "head_channels", "scale")
        }
        return [f"{name}=" for name, value in options.items() if value is not None]

    @property
    def conventions(self) -> Conventions:
        """The conventions that the user says."""
        heads: Mapping[str, Any] = {
            name: value for name in ("heads", "head_channels") if (value := getattr(self, name)) is not None
        }
        return Conventions(heads=heads or None, prediction=self.prediction, size=self.size, scale=self.scale)
