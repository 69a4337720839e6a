"""The LoRA files that options name, each with its strength."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ldm.files.digest import sha256_of
from ldm.files.similar import similar
from ldm.options.rule import Real, check

NAMES = ("lora.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""Names of a LoRA's file in a folder, as `format=lora`, diffusers and peft write it."""

ENDING = ".safetensors"


class ChosenLoRA(NamedTuple):
    """A LoRA file, and how strongly it changes the model.

    Attributes:
        file: The file.
        scale: The number that its change is multiplied with; 1 is as it was trained.
    """

    file: Path
    scale: float

    def digest(self) -> str:
        """Return the first 16 digits of the SHA-256 of the file, by which it is known wherever it lies; the file is read."""
        return sha256_of(self.file)[:16]

    def identity(self) -> str:
        """Return a name for the change of the model: name and digest of the file, which is read, and its scale."""
        return f"{self.file.name} ({self.digest()}) * {self.scale:g}"


def chosen_loras(
    lora: str | Path | Sequence[str | Path] | None, scale: float | Sequence[float] = 1.0
) -> list[ChosenLoRA]:
    """Return the files that the options `lora` and `lora_scale` name.

    Args:
        lora: A file, or a folder that holds one, or a list of them; None: none.
        scale: The scale of each, or of all of them.

    Raises:
        ValueError: If there is not one scale for each, or one is no finite number.
        FileNotFoundError: If there is no such file.
    """
    named = [] if lora is None else [lora] if isinstance(lora, str | Path) else list(lora)
    several = isinstance(scale, Sequence) and not isinstance(scale, str)
    scales: list[float] = list(scale) if several else [scale] * len(named)  # type: ignore[arg-type,list-item]
    if several and len(scales) != len(named):
        raise ValueError(
            f"lora names {len(named)} files, and lora_scale has {len(scales)} numbers; give one for each, in the same "
            "order, or one for all"
        )
    if not named and scale not in ([], 1.0):
        raise ValueError(
            f"lora_scale={scale} would change nothing without a LoRA; name one, lora=FILE, or leave it out"
        )
    for one in scales:
        check("lora_scale", one, Real())
    return [ChosenLoRA(_found(Path(place)), one) for place, one in zip(named, scales, strict=True)]


def _found(path: Path) -> Path:
    """Return the file that a path names: itself, or one of those in a folder."""
    if path.is_file():
        return path
    if path.is_dir():
        for name in NAMES:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(
            f"the folder lora={path} holds none of {', '.join(NAMES)}; name the file itself. The LoRA of a run that was "
            f"trained with adapter=lora is written by python -m ldm.interop.export ckpt={path} out=exported format=lora"
        )
    close = similar(path, path.parent.glob(f"*{ENDING}"))
    hint = f"there is {', '.join(close)}" if close else "give a .safetensors file"
    raise FileNotFoundError(f"no LoRA at lora={path}; {hint}")
