"""Reading of other people's models, from a file or a folder, in whichever of the known layouts they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.config import build, trusted_class
from ldm.interop import compvis, pipeline
from ldm.interop.autoencoder import vae_file
from ldm.interop.autoencoder.vae_file import is_autoencoder
from ldm.interop.conditioner.beside import map_beside, text_and_map
from ldm.interop.conditioner.reading import read_compvis_conditioner, read_own_conditioner, read_text_encoder
from ldm.interop.conventions import HEADS, Conventions, model_node
from ldm.interop.foreign import CONFIG_KEY, ForeignModel, assembled, check_all_used
from ldm.interop.part import Part
from ldm.interop.request import ReadRequest
from ldm.interop.source import Weights, read_json, read_weights, read_yaml, yaml_beside
from ldm.interop.unet import compvis as compvis_unet
from ldm.interop.unet import diffusers as diffusers_unet
from ldm.interop.unet.diffusers_config import unet_options, uses_linear
from ldm.nn.uninitialized import Uninitialized

LAYOUTS = "CompVis and Stability (whole models, autoencoders), and of diffusers (pipelines, AutoencoderKL, VQModel, UNet2D...)"
"""The layouts that are known, for messages."""


TOKENIZER = "tokenizer"
"""Name of a folder beside a file of weights, or in a pipeline, that holds the tokenizer."""


def is_foreign(path: Path) -> bool:
    """Return whether a folder is one of diffusers or transformers, or has a U-Net of theirs; files are looked at when read."""
    return pipeline.is_pipeline(path) or pipeline.is_component(path) or "unet" in pipeline.components_in(path)


def read_foreign(path: Path, request: ReadRequest | None = None) -> ForeignModel:
    """Read a model, an autoencoder or a U-Net that other programs wrote. No code of theirs is run.

    Args:
        path: A file of weights, or a folder of diffusers.
        request: The wishes of the user.

    Returns:
        The model, or its part; tensors stay on disk until they are used.

    Raises:
        ValueError: If the layout is unknown, a tensor is missing, left over or misshaped, or something is not known.
    """
    request = request or ReadRequest()
    if pipeline.is_own(path):
        return _read_own(path, request)
    if pipeline.is_pipeline(path):
        return _read_pipeline(path, request)
    if path.is_dir():
        return _read_component(pipeline.read_component(path), request)
    weights = read_weights(path)
    if CONFIG_KEY in weights.metadata:
        raise ValueError(f"{path} is a checkpoint of this project already; give it as ckpt={path}")
    if compvis.is_checkpoint(weights.tensors):
        return _read_compvis(weights, request)
    if is_autoencoder(weights.tensors):
        part = vae_file.read(weights.tensors, scale=request.scale)
        return _alone(part, "an autoencoder alone")
    if diffusers_unet.is_unet(weights.tensors) or compvis_unet.is_unet(weights.tensors):
        raise ValueError(f"{path} holds a U-Net alone; give the folder that has its config.json beside it")
    names = sorted(weights.tensors)
    raise ValueError(
        f"{path} holds weights, but not the config of a model of this project, and has none of the layouts of {LAYOUTS}; its "
        f"tensors are called {names[:5]}"
    )


def _read_compvis(weights: Weights, request: ReadRequest) -> ForeignModel:
    """Read a whole model of CompVis' programs."""
    config = read_yaml(Path(request.config)) if request.config is not None else yaml_beside(weights.file)
    tensors, dropped = compvis.with_averages(weights.tensors, averaged=request.averaged)
    dropped |= compvis.bookkeeping(tensors)
    autoencoder_names = {name: tensor for name, tensor in tensors.items() if name.startswith(compvis.FIRST_STAGE)}
    if not autoencoder_names:
        raise ValueError(f"{weights.file} holds a U-Net, but no autoencoder ({compvis.FIRST_STAGE}*)")
    conventions = request.conventions.over(compvis.conventions_of(config, weights.tensors))
    autoencoder = vae_file.read(autoencoder_names, scale=conventions.scale)
    own = {name.removeprefix(compvis.UNET): tensor for name, tensor in tensors.items() if name.startswith(compvis.UNET)}
    shapes = {name: tensor.shape for name, tensor in own.items()}
    kind = compvis.conditioner_kind({name: tensor for name, tensor in tensors.items() if name not in dropped})
    options = _beside_latents(compvis_unet.options(shapes), autoencoder)
    node, experiment = model_node(kind, options, conventions, experiment=request.experiment)
    beside = map_beside(kind, node)
    backbone = {key: value for key, value in node["denoiser"]["backbone"].items() if key != "_target_"}
    translation = compvis_unet.translation(backbone, linear=compvis_unet.uses_linear(shapes))
    reading = translation.read(tensors, prefix=compvis.UNET)
    folder = weights.file.parent / TOKENIZER
    tokenizer = request.tokenizer or (str(folder) if folder.is_dir() else None)
    conditioner = read_compvis_conditioner(
        kind, tensors, prefix=compvis.CONDITIONER, node=node["conditioner"], tokenizer=tokenizer
    )
    dropped |= {**autoencoder.dropped, **conditioner.dropped}
    used = reading.used | autoencoder.used | conditioner.used
    check_all_used(tensors, used, dropped, layouts=LAYOUTS)
    whole, state = assembled(
        node, autoencoder=autoencoder, conditioner=conditioner, backbone=reading.weights, beside=beside
    )
    return ForeignModel(whole, state, "CompVis", experiment, dropped)


def _read_pipeline(folder: Path, request: ReadRequest) -> ForeignModel:
    """Read a whole pipeline of diffusers."""
    components = pipeline.components_of(folder)
    places = {
        "unet": components.get("unet"),
        "vae or vqvae": pipeline.one_of(components, pipeline.AUTOENCODERS),
    }
    if missing := [name for name, place in places.items() if place is None]:
        raise ValueError(f"{folder} has no {' and no '.join(missing)}")
    unet = pipeline.read_component(folder / "unet")
    first = pipeline.read_component(places["vae or vqvae"] or folder)
    autoencoder = vae_file.read(first.weights.tensors, config=first.config, scale=request.scale)
    text = pipeline.one_of(components, pipeline.TEXT_ENCODERS)
    encoder = None if text is None else pipeline.read_component(text)
    tokenizer = request.tokenizer or (str(components["tokenizer"]) if "tokenizer" in components else None)
    options = _beside_latents(unet_options(unet.config), autoencoder)
    kind = _text_kind(encoder, options)
    factor = 2 ** (len(autoencoder.node["channel_mult"]) - 1)
    side = unet.config.get("sample_size")
    conventions = request.conventions.over(pipeline.conventions_of_scheduler(components.get("scheduler"))).over(
        Conventions(
            heads={key: options[key] for key in HEADS if options.get(key)},
            size=side * factor if isinstance(side, int) else None,
        )
    )
    node, experiment = model_node(kind, options, conventions, experiment=request.experiment)
    beside = map_beside(kind, node)
    reading = _read_unet(unet, options)
    if encoder is None:
        conditioner = Part(node["conditioner"], {}, set())
    else:
        conditioner = read_text_encoder(encoder.weights.tensors, encoder.config, tokenizer=tokenizer)
    dropped = {f"{name}/": why for name, why in pipeline.UNUSED.items() if (folder / name).is_dir()}
    dropped |= {**autoencoder.dropped, **conditioner.dropped}
    whole, state = assembled(node, autoencoder=autoencoder, conditioner=conditioner, backbone=reading, beside=beside)
    return ForeignModel(whole, state, f"diffusers ({folder.name})", experiment, dropped)


def _read_own(folder: Path, request: ReadRequest) -> ForeignModel:
    """Read a model of ours that was written as components, since no pipeline of diffusers runs it."""
    if given := request.given:
        raise ValueError(
            f"{folder / pipeline.OWN_INDEX} says all that tensors do not tell; leave out {', '.join(given)}"
        )
    node = read_json(folder / pipeline.OWN_INDEX)
    trusted_class(node)
    components = pipeline.own_components(folder)
    first = pipeline.read_component(pipeline.one_of(components, pipeline.AUTOENCODERS) or folder)
    autoencoder = vae_file.read(first.weights.tensors, config=first.config)
    with Uninitialized():
        counters = build(node["autoencoder"]).state_dict()  # which are of training alone, and not written
    own = Part(node["autoencoder"], {**counters, **autoencoder.weights}, autoencoder.used, autoencoder.dropped)
    options = {key: value for key, value in node["denoiser"]["backbone"].items() if key != "_target_"}
    reading = _read_unet(pipeline.read_component(components["unet"]), options)
    if (found := text_and_map(node["conditioner"])) is not None:
        reading = found[1].to_ours(reading, node["autoencoder"]["latent_channels"])
    conditioner = read_own_conditioner(node["conditioner"], components, tokenizer=request.tokenizer)
    whole, state = assembled(node, autoencoder=own, conditioner=conditioner, backbone=reading)
    return ForeignModel(whole, state, f"diffusers ({folder.name}), in components", None, {})


def _text_kind(encoder: pipeline.Component | None, options: Mapping[str, Any]) -> str:
    """Return the kind of condition of a pipeline, a key of `conventions.EXPERIMENTS`."""
    if encoder is None:
        if options.get("context_width") is not None:
            raise ValueError("the U-Net attends to tokens, but the pipeline has no text encoder")
        return "none"
    if encoder.kind == "LDMBertModel":
        return "bert"
    return "clip" if encoder.config.get("hidden_act") == "quick_gelu" else "open_clip"


def _read_component(component: pipeline.Component, request: ReadRequest) -> ForeignModel:
    """Read a single network of diffusers."""
    if is_autoencoder(component.weights.tensors):
        part = vae_file.read(component.weights.tensors, config=component.config, scale=request.scale)
        return _alone(part, f"diffusers ({component.kind})")
    if not diffusers_unet.is_unet(component.weights.tensors):
        raise ValueError(f"{component.folder} holds a {component.kind}, which is none of {LAYOUTS}")
    options = unet_options(component.config)
    weights = _read_unet(component, options)
    node = {"_target_": "ldm.backbone.unet.UNet", **options}
    return ForeignModel(node, weights, f"diffusers ({component.kind})", None, {})


def _read_unet(component: pipeline.Component, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of a U-Net of diffusers.

    Raises:
        ValueError: If tensors are missing, left over or misshaped.
    """
    today = diffusers_unet.renamed(component.weights.tensors)
    translation = diffusers_unet.translation(options, linear=uses_linear(component.config))
    reading = translation.read(today)
    check_all_used(today, reading.used, {}, layouts=LAYOUTS)
    return reading.weights


def _alone(part: Part, layout: str) -> ForeignModel:
    """Return a part as a model of its own."""
    return ForeignModel(part.node, part.weights, layout, None, part.dropped)


def _beside_latents(options: Mapping[str, Any], autoencoder: Part) -> dict[str, Any]:
    """Return the options of a U-Net, in which the channels of its input that are not the latent's are those beside it.

    Raises:
        ValueError: If its input has fewer channels than the latent.
    """
    latent = autoencoder.node["latent_channels"]
    beside = options["in_channels"] - latent
    if beside < 0:
        raise ValueError(
            f"the U-Net takes {options['in_channels']} channels, but the autoencoder's latents have {latent}"
        )
    return {**options, "in_channels": latent, "concat_channels": beside}
