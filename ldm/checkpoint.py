"""Saving and loading of complete models: the weights, and the config that rebuilds the model, in one file.

There are two kinds of files: the `*.safetensors` file of a finished stage, and Lightning's `*.ckpt` file of a run that
goes on. From both, the averaged (EMA) weights are read. Neither is loaded in a way that could execute code from it.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ldm.autoencoder.base import Autoencoder
from ldm.classifier.base import NoisyClassifier
from ldm.classifier.caption_classifier import CaptionClassifier
from ldm.classifier.label_classifier import LabelClassifier
from ldm.config import build_trusted, trusted_class
from ldm.files.similar import runs_near, similar
from ldm.files.tensors import write_tensors
from ldm.interop.foreign import CONFIG_KEY
from ldm.interop.lora.chosen import ChosenLoRA, chosen_loras
from ldm.interop.lora.merging import merged
from ldm.interop.pickled import holds_stand_in, read_pickled
from ldm.interop.reading import is_foreign, read_foreign
from ldm.interop.textual_inversion import LearnedWord, read_words, teach
from ldm.model import LatentDiffusion
from ldm.nn.uninitialized import Uninitialized
from ldm.optim.divergence import check_finite
from ldm.optim.frozen import whole_state
from ldm.optim.lora import ADAPTER_KEY

log = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
"""The file name of a finished latent diffusion model."""
AUTOENCODER_FILE = "autoencoder.safetensors"
"""The file name of a finished autoencoder."""
CLASSIFIER_FILE = "classifier.safetensors"
"""The file name of a finished classifier."""
KINDS: dict[str, type] = {
    MODEL_FILE: LatentDiffusion,
    AUTOENCODER_FILE: Autoencoder,
    CLASSIFIER_FILE: NoisyClassifier,
}
"""File name of a finished model -> its kind."""
WEIGHTS_PREFIX = "model."
"""The beginning of the names of the model's weights in a .ckpt file."""


def save(path: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write a model and the config that builds it; the file appears whole or not at all.

    Args:
        path: The .safetensors file.
        model: The model.
        config: The config, which is written as JSON.

    Raises:
        ValueError: If a weight is not finite; nothing is written.
    """
    check_finite(model)
    write_tensors(path, model.state_dict(), {CONFIG_KEY: json.dumps(config)})


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    packages: Sequence[str] = ("ldm",),
    loras: Mapping[str | Path, float] | None = None,
    textual_inversions: Sequence[str | Path] = (),
) -> LatentDiffusion:
    """Load a latent diffusion model for sampling.

    Args:
        path: A checkpoint file, or a folder (a run, a sweep) whose newest finished model is taken.
        device: The device of the model.
        packages: Packages whose classes the file may name; add your own if you trained with them.
        loras: LoRA file of any program, which is merged into the weights -> its strength; 1 is as it was trained.
        textual_inversions: Files of words that were learned by textual inversion, which prompts can have from now on.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: If the file holds another kind of model, or cannot be loaded safely, or a LoRA does not belong to it.
        FileNotFoundError: If there is no finished model, or no such LoRA.
    """
    chosen = chosen_loras(list(loras), list(loras.values())) if loras else ()
    words = read_words(textual_inversions)
    return load_with_config(path, device=device, packages=packages, loras=chosen, words=words)[0]


def load_with_config(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    packages: Sequence[str] = ("ldm",),
    loras: Sequence[ChosenLoRA] = (),
    words: Sequence[LearnedWord] = (),
) -> tuple[LatentDiffusion, dict[str, Any]]:
    """Load a latent diffusion model as `load` does, and the config that builds it."""
    file = find(path)
    config, weights = read_merged(file)
    model = _rebuild(config, merged(config, weights, loras), file, packages)
    if not isinstance(model, LatentDiffusion):
        raise ValueError(
            f"{path} holds {type(model).__name__}, not a latent diffusion model; {_where_a_model_is(file, model)}"
        )
    teach(model.conditioner, words)
    return model.to(device).eval(), config


def load_autoencoder(
    path: str | Path, *, packages: Sequence[str] = ("ldm",), finished: bool = True
) -> tuple[Autoencoder, dict[str, Any]]:
    """Load the autoencoder of a finished stage 1, or of a whole model.

    Args:
        path: A checkpoint file, or a folder whose newest finished autoencoder (or else model) is taken.
        packages: Packages whose classes the file may name.
        finished: Whether it must have latent statistics, without which no diffusion model can be trained on it.

    Returns:
        The autoencoder, and the config that builds it.

    Raises:
        ValueError: If the file holds no autoencoder, or one that has no latent statistics yet but must.
        FileNotFoundError: If there is no finished model.
    """
    file = find(path, (AUTOENCODER_FILE, MODEL_FILE), usable=(LatentDiffusion,) if finished else None)
    config, weights = read_merged(file)
    model = _rebuild(config, weights, file, packages)
    if isinstance(model, LatentDiffusion | NoisyClassifier):
        model, config = model.autoencoder, config["autoencoder"]
    if not isinstance(model, Autoencoder):
        raise ValueError(f"{file} holds {type(model).__name__}, not an autoencoder; give the file that stage 1 wrote")
    if finished and not int(model.statistics_count):
        raise ValueError(
            f"the autoencoder in {file} has no latent statistics, so its training has not ended; "
            f"finish it by the command that began it and give its {AUTOENCODER_FILE}"
        )
    return model, config


def load_classifier(path: str | Path, *, packages: Sequence[str] = ("ldm",)) -> NoisyClassifier:
    """Load a classifier of noisy latents for guidance.

    Args:
        path: A checkpoint file, or a folder whose newest finished classifier is taken.
        packages: Packages whose classes the file may name.

    Returns:
        The classifier in evaluation mode, without gradients of its weights.

    Raises:
        ValueError: If the file holds another kind of model, or cannot be loaded safely.
        FileNotFoundError: If there is no finished classifier.
    """
    file = find(path, (CLASSIFIER_FILE, MODEL_FILE), usable=(NoisyClassifier,))  # the second, to say what it is
    model = _rebuild(*read(file), file, packages)
    if not isinstance(model, NoisyClassifier):
        inputs = model.conditioner.inputs if isinstance(model, LatentDiffusion) else ()
        fitting = LabelClassifier if "label" in inputs else CaptionClassifier
        raise ValueError(
            f"{file} holds {type(model).__name__}, not a classifier; "
            + fitting.how_to_train(f"autoencoder.ckpt={shlex.quote(str(path))}")
        )
    return model.eval().requires_grad_(False)


def find(path: str | Path, names: Sequence[str] = (MODEL_FILE,), *, usable: Sequence[type] | None = None) -> Path:
    """Find a checkpoint file.

    Args:
        path: The file itself, a folder of diffusers, or a folder (a run, a sweep) to search.
        names: File names of finished models; the first name is preferred that is found in the folder.
        usable: Kinds of models whose checkpoints of an unfinished training serve, too; the error names one. None: the kinds that
            belong to the names.

    Returns:
        The file; in a folder, the newest one with that name.

    Raises:
        FileNotFoundError: If there is no such file; the error names a finished model of another kind, or an unfinished
            checkpoint, if there is one.
    """
    path = Path(path)
    if path.is_file() or is_foreign(path):
        return path
    if not path.is_dir():
        close = similar(path, _checkpoints_beside(path))
        hint = f"there is {', '.join(close)}" if close else "give a run folder or a .safetensors or .ckpt file"
        raise FileNotFoundError(f"no checkpoint at {path}; {hint}")
    for name in names:
        found = sorted(path.rglob(name), key=lambda file: file.stat().st_mtime)
        if found:
            return found[-1]
    others = [name for name in KINDS if any(path.rglob(name))]
    kinds = tuple([KINDS[name] for name in names if name in KINDS] if usable is None else usable)
    unfinished = sorted(path.rglob("*.ckpt"), reverse=True)
    hint = "; give a run folder or a .safetensors or .ckpt file"
    if fitting := next((file for file in unfinished if _is_of(file, kinds)), None):
        hint = f"; the run has not ended, but {fitting} can be given as it is"
    elif others:
        hint = f"; what is finished there is {' and '.join(others)}, not the kind of model that is needed here"
    elif unfinished:
        hint = "; the run has not ended, and its checkpoints are not of the kind that is needed here"
    raise FileNotFoundError(f"no finished checkpoint ({' or '.join(names)}) below {path}{hint}")


def kind_of(file: Path, packages: Sequence[str] = ("ldm",)) -> type:
    """Return the class of the model that a checkpoint file holds; its weights are not read.

    Args:
        file: A .safetensors or .ckpt file.
        packages: Packages whose classes the file may name.

    Raises:
        ValueError: If the file is damaged, cannot be loaded safely, or is no checkpoint of this project.
    """
    return trusted_class({key: value for key, value in config_of(file).items() if key == "_target_"}, packages)


def config_of(file: Path) -> dict[str, Any]:
    """Return the config of the model that a checkpoint file holds; raise ValueError as `kind_of` does."""
    found: dict[str, Any] = _content(file).get(CONFIG_KEY) or read_foreign(file).config
    return found


def read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read config and weights of a checkpoint; only tensors and plain values are read, no code is run.

    Args:
        file: A .safetensors or .ckpt file of this project; or, in another layout that `ldm.interop` knows, a file or a folder.

    Returns:
        The config, and name -> tensor on the CPU.

    Raises:
        ValueError: If the file is damaged, cannot be loaded safely, or is of no known layout.
    """
    content = _content(file)
    if CONFIG_KEY not in content:
        return _read_foreign(file)
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return content[CONFIG_KEY], {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    weights = {
        name.removeprefix(WEIGHTS_PREFIX): tensor
        for name, tensor in whole_state(file, content).items()
        if name.startswith(WEIGHTS_PREFIX)
    }
    return content[CONFIG_KEY], weights


def read_merged(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read config and weights of a checkpoint as `read` does, with an adapter merged into the weights that it changes.

    Raises:
        ValueError: As `read` does.
    """
    config, weights = read(file)
    adapter = config.pop(ADAPTER_KEY, None)
    return config, weights if adapter is None else build_trusted(adapter).merge(weights)


def _content(file: Path) -> dict[str, Any]:
    """Return the content of a .ckpt file, or the config alone of a .safetensors file; no config where it is not ours."""
    if file.is_dir():
        return {}
    if file.suffix != ".safetensors":
        content = read_pickled(file)
        if holds_stand_in(content.get(CONFIG_KEY)):
            raise ValueError(f"{file} is not a checkpoint that can be loaded safely: its config is no plain data")
        return content
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}; copy it again") from error
    return {CONFIG_KEY: json.loads(metadata[CONFIG_KEY])} if CONFIG_KEY in metadata else {}


def _read_foreign(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read config and weights of a checkpoint in another layout."""
    found = read_foreign(path)
    log.info("%s has the layout of %s", path, found.layout)
    return found.config, found.weights


def _is_of(file: Path, kinds: tuple[type, ...]) -> bool:
    """Return whether a file is a checkpoint of some kinds of models; False where it cannot be read."""
    try:
        return issubclass(kind_of(file), kinds)
    except (ValueError, AttributeError):
        return False


def _where_a_model_is(part: Path, model: nn.Module) -> str:
    """Return advice for a file of an autoencoder or a classifier that was given in place of a latent diffusion model."""
    if part.with_name(MODEL_FILE).is_file():
        return f"the one that belongs to it lies beside it: ckpt={part.parent}"
    if not isinstance(model, Autoencoder):
        return "give a run, or the file of a finished model"
    given = f"autoencoder.ckpt={shlex.quote(str(part))}"
    return (
        f"train one on top of it, on images like those that it was trained on: python train.py experiment=txt2img_shards {given} "
        f"data.train=... data.val=..., or for the embedded icons python train.py experiment=txt2img {given}"
    )


def _checkpoints_beside(path: Path) -> list[Path]:
    """Return what lies beside a path where there is nothing: files with its ending, or runs."""
    if path.suffix in (".ckpt", ".safetensors"):
        return list(path.parent.glob(f"*{path.suffix}"))
    return runs_near(path)


def _rebuild(config: dict[str, Any], weights: dict[str, Tensor], file: Path, packages: Sequence[str]) -> nn.Module:
    """Build a model from its config, with classes of these packages only, and give it its weights, in fp32.

    Weights that are in fp32 are not copied: on a CPU they stay in the file until they are used.
    """
    whole = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    try:
        with Uninitialized():
            model: nn.Module = build_trusted(config, packages)
            model.load_state_dict(whole, assign=True)
    except RuntimeError as error:
        raise ValueError(f"weights and config of {file} do not fit together: {error}") from error
    return model
