"""Warm starts: training that begins with the averaged weights of an earlier model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ldm import checkpoint
from ldm.autoencoder.base import Autoencoder
from ldm.backbone.unet import UNet
from ldm.conditioner.base import Reader
from ldm.conditioner.class_names import ClassNames
from ldm.config import trusted_class
from ldm.optim.frozen import frozen_names
from ldm.training.init_account import WarmStart

EXTRA = "_extra_state"
"""The last part of the name of what a module keeps beside tensors of its own, like a tokenizer."""

AUTOENCODER = "autoencoder"
"""The name of the autoencoder, and of its config, in models that have one."""


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
    config, weights = checkpoint.read_merged(file)
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
    account.check(may_be_new)
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
        # names of classes that are here already are the same, or the user's own
        kept = {name for name, one in words.items() if isinstance(one, ClassNames) and one.names}
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
    """Return whether a tensor belongs to the first layer of a U-Net that gets more maps beside x_t than before."""
    place, _, layer = name.rpartition(".conv_in.")
    unet = dict(model.named_modules()).get(place) if layer == "weight" else None
    if not isinstance(unet, UNet) or found.ndim != 4:
        return False
    same = (found.shape[0], *found.shape[2:]) == (ours.shape[0], *ours.shape[2:])
    return same and ours.shape[1] - unet.concat_channels <= found.shape[1] < ours.shape[1]


def _below(prefix: str, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors whose names begin with a prefix, by the rest of their names."""
    for name, tensor in state.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor


def _advice(found: type, path: str) -> str:
    """Return advice for a model of another kind, as the end of a sentence."""
    if issubclass(found, Autoencoder):
        return (
            f"; to train on this autoencoder as it is, give autoencoder.ckpt={path}; to train it further, train the first stage "
            "alone, like stage=[autoencoder]"
        )
    return "; give a model of the same kind"
