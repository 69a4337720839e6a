"""Folders of diffusers: whole pipelines, and single components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm.files.run_names import CONFIG_FILE
from ldm.interop.conditioner.beside import ABSENT, DEPTH_NETWORK
from ldm.interop.conventions import Conventions, prediction_node, schedule_node, schedule_of_betas
from ldm.interop.source import Weights, component_file, read_json, read_weights

MODEL_INDEX = "model_index.json"
"""The file that makes a folder a pipeline."""

OWN_INDEX = "ldm_config.json"
"""The file that makes a folder of components a model of ours, where no pipeline of diffusers runs it; it holds its config."""

CONFIG = "config.json"
"""The file that makes a folder a component."""

SCHEDULER_CONFIG = "scheduler_config.json"
"""The config of a scheduler, in its folder."""

AUTOENCODERS = ("vae", "vqvae")
"""Names of the folder of the autoencoder."""

TEXT_ENCODERS = ("text_encoder", "bert")
"""Names of the folder of the text encoder."""

UNUSED: Mapping[str, str] = {
    **dict.fromkeys(ABSENT, "another network, which does not make the image"),
    "depth_estimator": DEPTH_NETWORK,
}
"""Components that are left out on purpose -> why."""

PREDICTIONS: Mapping[str, str] = {
    "epsilon": "noise",
    "v_prediction": "velocity",
    "sample": "clean",
    "flow_prediction": "flow",
}
"""Names of predictions in diffusers, and here."""


@dataclass(frozen=True)
class Component:
    """A network in a folder.

    Attributes:
        folder: The folder.
        config: Its config.json.
        weights: Its tensors.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: Weights

    @property
    def kind(self) -> str:
        """Name of its class in diffusers or transformers."""
        return str(self.config.get("_class_name") or (self.config.get("architectures") or ["?"])[0])


def is_pipeline(path: Path) -> bool:
    """Return whether a path is a folder of diffusers with a whole pipeline, or with all components of a model of ours."""
    return (path / MODEL_INDEX).is_file() or is_own(path)


def is_own(path: Path) -> bool:
    """Return whether a path is a folder with all components of a model of ours, which no pipeline of diffusers runs."""
    return (path / OWN_INDEX).is_file()


def is_component(path: Path) -> bool:
    """Return whether a path is a folder of diffusers or transformers with one network."""
    return (path / CONFIG).is_file() and component_file(path) is not None


def components_in(path: Path) -> list[str]:
    """Return the names of the components in a folder, which need not be a whole pipeline."""
    return (
        sorted(place.name for place in path.iterdir() if place.is_dir() and is_component(place))
        if path.is_dir()
        else []
    )


def read_component(folder: Path) -> Component:
    """Read a network.

    Args:
        folder: Its folder, with config.json and weights.

    Raises:
        ValueError: If it has no config or no weights, or they cannot be read.
    """
    if not (folder / CONFIG).is_file():
        if inside := components_in(folder):
            raise ValueError(
                f"{folder} has components ({', '.join(inside)}), but neither {MODEL_INDEX} nor {OWN_INDEX} (of folders that "
                "python -m ldm.interop.export wrote), which says how they belong together; copy that file, too. "
                f"One component alone can be read: {folder / ('unet' if 'unet' in inside else inside[0])}"
            )
        if (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{folder} is a run of this project, which is read as it is; give it as ckpt={folder}")
        raise ValueError(
            f"{folder} has neither {MODEL_INDEX} nor {CONFIG}, so it is no folder of diffusers; give one that is, or a file of "
            "weights"
        )
    file = component_file(folder)
    if file is None:
        raise ValueError(f"{folder} has no weights, like diffusion_pytorch_model.safetensors; copy the whole folder")
    return Component(folder, read_json(folder / CONFIG), read_weights(file))


def components_of(folder: Path) -> dict[str, Path]:
    """Return the components that a pipeline names, by name, without those that are absent or left out on purpose.

    Raises:
        ValueError: If one is unknown, or its folder is missing.
    """
    index = read_json(folder / MODEL_INDEX)
    named = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    known = {"unet", "scheduler", "tokenizer", *AUTOENCODERS, *TEXT_ENCODERS}
    if strange := sorted(named.keys() - known - UNUSED.keys()):
        raise ValueError(
            f"{folder / MODEL_INDEX} ({index.get('_class_name')}) has components that no model here has: {', '.join(strange)}"
        )
    found = {name: folder / name for name in named if name in known}
    if missing := [name for name, place in found.items() if not place.is_dir()]:
        raise ValueError(f"{folder} lacks the folders {', '.join(missing)}, which {MODEL_INDEX} names; copy all of it")
    return found


def own_components(folder: Path) -> dict[str, Path]:
    """Return the components of a model of ours that no pipeline of diffusers runs, by name.

    Raises:
        ValueError: If the U-Net or the autoencoder is missing.
    """
    names = ("unet", "tokenizer", "conditioner", *AUTOENCODERS, *TEXT_ENCODERS)
    found = {name: folder / name for name in names if (folder / name).is_dir()}
    if "unet" not in found or one_of(found, AUTOENCODERS) is None:
        raise ValueError(
            f"{folder} lacks unet, or {' or '.join(AUTOENCODERS)}, which {OWN_INDEX} belongs to; copy all of it"
        )
    return found


def one_of(components: Mapping[str, Path], names: tuple[str, ...]) -> Path | None:
    """Return the folder of the component that has one of these names; None where there is none."""
    return next((components[name] for name in names if name in components), None)


def conventions_of_scheduler(folder: Path | None) -> Conventions:
    """Return the conventions of a model that the config of its scheduler says.

    Args:
        folder: The folder of the scheduler; None: there is none.

    Raises:
        ValueError: If it asks for a schedule or prediction that is not known.
    """
    if folder is None:
        return Conventions()
    config = read_json(folder / SCHEDULER_CONFIG)
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"{folder / SCHEDULER_CONFIG}: prediction_type={prediction!r} is none of {', '.join(PREDICTIONS)}"
        )
    if config.get("trained_betas") is not None:
        schedule = schedule_of_betas(config["trained_betas"])
    else:
        schedule = schedule_node(
            config.get("beta_schedule", "linear"),
            config.get("beta_start", 1e-4),
            config.get("beta_end", 0.02),
            config.get("num_train_timesteps", 1000),
        )
    if config.get("rescale_betas_zero_snr"):
        schedule = {"_target_": "ldm.diffusion.schedule.ZeroTerminalSchedule", "schedule": schedule}
    return Conventions(schedule=schedule, prediction=prediction_node(PREDICTIONS[prediction]))
