"""`python -m ldm.interop.load`: read a model of others, write it, and say what was taken and what was not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from ldm.config import class_name, resolved
from ldm.files.tensors import write_tensors
from ldm.interop.foreign import CONFIG_KEY, ForeignModel
from ldm.interop.reading import read_foreign
from ldm.interop.request import ReadRequest


def main(config: DictConfig) -> None:
    """Run the command.

    Raises:
        ValueError: If there is no single source, the file exists, or the source cannot be read; nothing is written then.
    """
    sources = resolved(config.sources)
    if len(sources) != 1:
        raise ValueError(
            f"give one file or folder, python -m ldm.interop.load SOURCE out=FILE; got {sources or 'none'}"
        )
    source, out = Path(sources[0]), Path(config.out)
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}; give a .safetensors or .ckpt file, or a folder of diffusers")
    if out.suffix != ".safetensors":
        raise ValueError(f"out={out} does not end in .safetensors; give out={out}.safetensors")
    if out.exists():
        raise ValueError(f"out={out} exists already; choose another name, or move the file away")
    options = resolved(config)
    names = ReadRequest.__dataclass_fields__.keys() - {"experiment"}
    request = ReadRequest(experiment=options["as"], **{name: options.get(name) for name in names})
    found = read_foreign(source, request)
    write_tensors(out, found.weights, {CONFIG_KEY: json.dumps(found.config)})
    print("\n".join(_summary(source, out, found)))


def _summary(source: Path, out: Path, found: ForeignModel) -> list[str]:
    """Describe a model: its layout, the tensors that were left out, and the command to type next."""
    kind = class_name(found.config)
    numbers = sum(tensor.numel() for tensor in found.weights.values() if tensor.is_floating_point())
    lines = [
        f"{source}: {kind} in the layout of {found.layout}, {len(found.weights)} tensors, {numbers / 1e6:,.1f} M numbers"
    ]
    if found.experiment is not None:
        lines.append(f"what tensors do not tell is as in experiment={found.experiment}")
    lines += [f"left out: {count} tensors, {why}" for why, count in Counter(found.dropped.values()).items()]
    following = {
        "LatentDiffusion": f"python sample.py ckpt={out}",
        "ConvAutoencoder": f"python train.py experiment=txt2img_shards autoencoder.ckpt={out} data.train=... data.val=...",
    }
    lines.append(str(out))
    if kind in following:
        lines.append(f"next: {following[kind]}")
    return lines
