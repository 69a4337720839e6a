"""Warm starts: training that begins with the averaged weights of an earlier model, and the account of what was taken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder
from ldm.backbone.unet import UNet
from ldm.conditioner.base import Reader
from ldm.conditioner.class_names import ClassNames
from ldm.config import trusted_class
from ldm.optim.frozen import frozen_names

INIT_FILE = "init.json"
"""The file in a stage's folder that says what the stage took of an earlier model."""

EXTRA = "_extra_state"
"""The last part of the name of what a module keeps beside tensors of its own, like a tokenizer."""

AUTOENCODER = "autoencoder"
"""The name of the autoencoder, and of its config, in models that have one."""

LISTED = 4
"""Tensors of each part that an error names, at most."""


@dataclass
class WarmStart:
    """What was taken of an earlier model, and what was not, by the names of tensors.

    Attributes:
        file: The file of the earlier model.
        taken: Tensors with the values of the earlier model -> their shape.
        extended: Tensors with more input channels than before, the added ones zero -> their shape before and now.
        other: Tensors that fit nothing, as shape or meaning are others -> why.
        new: Tensors that the earlier model does not have -> their shape.
        left_out: Tensors of the earlier model that have no place -> their shape.
    """

    file: Path
    taken: dict[str, list[int]] = field(default_factory=dict)
    extended: dict[str, list[list[int]]] = field(default_factory=dict)
    other: dict[str, str] = field(default_factory=dict)
    new: dict[str, list[int]] = field(default_factory=dict)
    left_out: dict[str, list[int]] = field(default_factory=dict)

    def misfits(self) -> dict[str, str]:
        """Return all tensors in which the two models differ, each with how."""
        new = {name: f"is new, {shape}" for name, shape in self.new.items()}
        left_out = {name: f"of the earlier model has no place, {shape}" for name, shape in self.left_out.items()}
        return {**self.other, **new, **left_out}

    def summary(self, stage: str) -> str:
        """Return a few lines for the user, grouped by parts of the model.

        Args:
            stage: Name of the stage.
        """
        lines = [f"the stage {stage} begins with the averaged weights of {self.file}: {_counted(self.taken)}"]
        lines += [f"  with zeros for new input channels: {n}, {a} -> {b}" for n, (a, b) in self.extended.items()]
        for what, names in (("anew", [*self.other, *self.new]), ("left out", self.left_out)):
            if names:
                lines.append(f"  {what}: {_counted(names)}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write the account into a stage's folder; the file appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{INIT_FILE}"
        draft.write_text(json.dumps({**self.__dict__, "file": str(self.file)}, indent=1), encoding="utf-8")
        draft.replace(folder / INIT_FILE)


def read_model(
    path: str, kind: type[nn.Module], names: Sequence[str], packages: Sequence[str]
) -> tuple[Path, dict[str, Tensor]]:
    """Read the averaged weights of an earlier model.

    Args:
        path: A file, or a folder (a run, a sweep) whose newest finished model is taken.
        kind: The class of the model that will take them. An autoencoder is also found in models that have one.
        names: File names of finished models that may be taken, the first preferred.
        packages: Packages whose classes the file may name.

    Returns:
        The file, and name -> tensor on the CPU.

    Raises:
        ValueError: If the file is damaged, foreign, cannot be loaded safely, or holds a model of another kind.
        FileNotFoundError: If there is none.
    """
    file = checkpoint.find(path, names)
    config, weights = checkpoint.read(file)
    if issubclass(kind, Autoencoder) and AUTOENCODER in config:
        config, weights = config[AUTOENCODER], dict(_below(f"{AUTOENCODER}.", weights))
    found = trusted_class(config, packages)
    if not issubclass(found, kind):
        raise ValueError(
            f"init={path}: {file} holds {found.__name__}, but what is trained is {kind.__name__}{_advice(found, path)}"
        )
    return file, weights


def take_weights(
    model: nn.Module, weights: Mapping[str, Tensor], file: Path, *, may_be_new: Sequence[str], never: Sequence[str] = ()
) -> WarmStart:
    """Give a model the weights of an earlier one, as far as they fit.

    A conditioner is taken as a whole, with its tokenizer or words, or not at all: its embeddings mean what these say. Frozen
    parts are compared, not taken, and must be the same. A U-Net with more maps beside x_t than the earlier one, as for
    inpainting or depth, gets zeros as the weights of the added input channels, so that it begins as the earlier one.

    Args:
        model: The model, which is changed.
        weights: Name -> tensor, of the earlier model.
        file: The file that they are from.
        may_be_new: Parts, by the beginnings of their names, that may begin anew or be left out where they do not fit.
        never: Names of tensors that are never taken.

    Returns:
        What was taken, and what was not.

    Raises:
        ValueError: If something else does not fit, or nothing does; the model is as before.

    References:
        Zeros for added channels: the model cards of Stable Diffusion's inpainting model and of its depth model.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in never}
    theirs = {name: tensor for name, tensor in weights.items() if name not in never}
    account, values = WarmStart(file), dict[str, Tensor]()
    frozen = frozen_names(model)
    for prefix, part in _readers(model):
        _take_reader(prefix, part, own, theirs, frozen, account, values)
    for prefix, part in model.named_modules():
        if isinstance(part, Autoencoder) and prefix:
            _compare_latents(f"{prefix}.", part, own, theirs, account)
    for name, tensor in own.items():
        _take_tensor(name, tensor, theirs.pop(name, None), model, frozen, account, values)
    account.left_out |= {name: [*tensor.shape] for name, tensor in theirs.items() if not name.endswith(EXTRA)}
    _check(account, may_be_new, file)
    model.load_state_dict(values, strict=False)
    return account


def _take_reader(
    prefix: str,
    part: Reader,
    own: dict[str, Tensor],
    theirs: dict[str, Tensor],
    frozen: set[str],
    account: WarmStart,
    values: dict[str, Tensor],
) -> None:
    """Take a conditioner, or a vocabulary, as a whole, and take its tensors out of both models."""
    ours = {name: own.pop(prefix + name) for name in dict(_below(prefix, own))}
    source = _source(prefix, ours, theirs)
    found = {name: theirs.pop(source + name) for name in dict(_below(source, theirs))}
    extras = {f"{name}.{EXTRA}".lstrip("."): one for name, one in part.named_modules() if _travels(one)}
    words = {name: one for name, one in extras.items() if name in found}
    tensors = [name for name in ours if not name.endswith(EXTRA)]
    other = {}
    for name in tensors:
        if name in found and (reason := _misfit(ours[name], found[name], prefix + name in frozen)):
            other[name] = reason
    for name, one in words.items():
        if isinstance(one, ClassNames) and not one.agrees(found[name]):
            other[name] = "has the names of other classes"
    new = {name: [*ours[name].shape] for name in tensors if name not in found}
    left = {name: [*tensor.shape] for name, tensor in found.items() if name not in ours and not name.endswith(EXTRA)}
    if not (other or new or left):
        taken = [name for name in tensors if prefix + name not in frozen]
        account.taken |= {prefix + name: [*ours[name].shape] for name in taken}
        kept = {
            name for name, one in words.items() if isinstance(one, ClassNames) and one.names
        }  # the same, or of the user
        values |= {prefix + name: found[name] for name in [*taken, *words] if name not in kept}
        return
    whole = f"belongs to {prefix[:-1]}, which is taken as a whole or not at all"
    others = [name for name in tensors if name in found and name not in other]
    account.other |= {prefix + name: other.get(name, whole) for name in [*other, *others]}
    account.new |= {prefix + name: shape for name, shape in new.items()}
    account.left_out |= {source + name: shape for name, shape in left.items()}


def _take_tensor(
    name: str,
    ours: Tensor,
    found: Tensor | None,
    model: nn.Module,
    frozen: set[str],
    account: WarmStart,
    values: dict[str, Tensor],
) -> None:
    """Take one tensor, extend it, or note why not."""
    if name.endswith(EXTRA):
        return
    if found is None:
        if name in dict(model.named_parameters()):  # a counter that is new begins as it does
            account.new[name] = [*ours.shape]
    elif _is_extended(name, ours, found, model):
        values[name] = torch.zeros_like(ours)
        values[name][:, : found.shape[1]] = found
        account.extended[name] = [[*found.shape], [*ours.shape]]
    elif reason := _misfit(ours, found, name in frozen):
        account.other[name] = reason
    elif name not in frozen:
        values[name] = found
        account.taken[name] = [*ours.shape]


def _compare_latents(
    prefix: str, autoencoder: Autoencoder, own: dict[str, Tensor], theirs: dict[str, Tensor], account: WarmStart
) -> None:
    """Compare two autoencoders by what makes latents, and take them out of both models; the decoders may differ."""
    encoding = {id(part) for part in autoencoder.encoding_parts()}
    inside = [name for name, part in autoencoder.named_modules() if id(part) in encoding]
    ours, found = ({name: state.pop(prefix + name) for name in dict(_below(prefix, state))} for state in (own, theirs))
    for name, tensor in ours.items():
        is_compared = name in ("shift", "scale") or any(name.startswith(f"{part}.") for part in inside)
        if is_compared and (name not in found or _misfit(tensor, found[name], True)):
            account.other[prefix + name] = "belongs to another autoencoder, whose latents are others"


def _source(prefix: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Return where in the earlier model a conditioner stands: alone, or as a part beside others, under whatever name."""
    root = prefix.partition(".")[0]
    inside = {name.split(".")[2] for name in theirs if name.startswith(f"{root}.parts.")}
    wanted = {name: tensor.shape for name, tensor in ours.items() if not name.endswith(EXTRA)}
    for place in (prefix, f"{root}.", *(f"{root}.parts.{name}." for name in sorted(inside))):
        shapes = {name: tensor.shape for name, tensor in _below(place, theirs) if not name.endswith(EXTRA)}
        if wanted and shapes == wanted:
            return place
    return prefix


def _readers(model: nn.Module) -> list[tuple[str, Reader]]:
    """Return prefix and module of all parts that read fields and are not put together of such parts."""
    found = [(f"{name}.", part) for name, part in model.named_modules() if name and isinstance(part, Reader)]
    return [(name, part) for name, part in found if sum(isinstance(one, Reader) for one in part.modules()) == 1]


def _travels(part: nn.Module) -> bool:
    """Return whether what a module keeps beside its tensors is learned, or given by the user, and so is taken."""
    return isinstance(part, ClassNames) or (isinstance(part, Reader) and bool(part.learns_from))


def _misfit(ours: Tensor, found: Tensor, is_frozen: bool) -> str | None:
    """Return why a tensor cannot be taken; None where it can."""
    if ours.shape != found.shape:
        return f"is {[*found.shape]} there and {[*ours.shape]} here"
    if is_frozen and not torch.equal(ours.to(found), found):
        return "is frozen, and has other values there"
    return None


def _is_extended(name: str, ours: Tensor, found: Tensor, model: nn.Module) -> bool:
    """Return whether a tensor is that of a U-Net's first layer which gets more maps beside x_t than before."""
    place, _, layer = name.rpartition(".conv_in.")
    unet = dict(model.named_modules()).get(place) if layer == "weight" else None
    if not isinstance(unet, UNet) or found.ndim != 4:
        return False
    same = (found.shape[0], *found.shape[2:]) == (ours.shape[0], *ours.shape[2:])
    return same and ours.shape[1] - unet.concat_channels <= found.shape[1] < ours.shape[1]


def _check(account: WarmStart, may_be_new: Sequence[str], file: Path) -> None:
    """Raise ValueError where something does not fit that must, or nothing fits."""
    misfits = account.misfits()
    known = [*misfits, *account.taken, *account.extended]
    for part in may_be_new:
        if not any(_is_in(name, part) for name in known):
            raise ValueError(
                f"init_new names {part}, which is no part of this model; its parts are {', '.join(_parts(known))}"
            )
    refused = {name: how for name, how in misfits.items() if not any(_is_in(name, part) for part in may_be_new)}
    if refused:
        shown = []
        for part in _parts([*refused]):
            lines = [f"{name} {how}" for name, how in refused.items() if _part(name) == part]
            more = [f"and {len(lines) - LISTED} more of {part}"] if len(lines) > LISTED else []
            shown += [*lines[:LISTED], *more]
        raise ValueError(
            f"the model in {file} does not fit the one that is to be trained:\n  "
            + "\n  ".join(shown)
            + "\ngive the options that it was trained with, which are in its config.yaml; or, to let these parts begin "
            f"anew where they do not fit, init_new=[{','.join(_parts([*may_be_new, *refused]))}]"
        )
    if not account.taken:
        raise ValueError(
            f"nothing of the model in {file} fits the one that is to be trained, so it is no beginning; leave out init"
        )


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _below(prefix: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors whose names begin with a prefix, by the rest of their names."""
    for name, tensor in state.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor


def _part(name: str) -> str:
    """Return the part of a model that a tensor belongs to: two steps down for what holds everything else, one otherwise."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first == "denoiser" and rest else first


def _parts(names: Sequence[str]) -> list[str]:
    return sorted(set(map(_part, names)))


def _counted(names: Mapping[str, Any] | Sequence[str]) -> str:
    """Return parts and the numbers of their tensors, as text."""
    return ", ".join(f"{part} ({count} tensors)" for part, count in Counter(map(_part, names)).items())


def _advice(found: type, path: str) -> str:
    """Return what to do with a model of another kind, after a comma or a semicolon."""
    if issubclass(found, Autoencoder):
        return (
            f"; to train on this autoencoder as it is, give autoencoder.ckpt={path}; to train it further, train the first stage "
            "alone, like stage=[autoencoder]"
        )
    return "; give a model of the same kind"
