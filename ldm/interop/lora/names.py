"""Names of the tensors in LoRA files: those of kohya's training scripts, of diffusers and of peft."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

UNET, TEXT, SECOND_TEXT = "unet", "text_encoder", "text_encoder_2"
"""The networks that a LoRA changes, as diffusers calls them; only Stable Diffusion XL has a second text encoder."""

BEGINNINGS: Mapping[str, str] = {
    "lora_unet_": UNET,
    "lora_te_": TEXT,
    "lora_te1_": TEXT,
    "lora_te2_": SECOND_TEXT,
    "unet.": UNET,
    "text_encoder.": TEXT,
    "text_encoder_2.": SECOND_TEXT,
}
"""How names begin -> the network; first kohya's, then diffusers'. Early files have the U-Net's names without any of these."""

WRAPPER = "base_model.model."
"""How names begin in the folders that peft writes, which do not say of which network they are."""

TEXT_LAYER = re.compile(r"(text_model\.)?encoder\.layers\.")
"""How the names of a text encoder's layers begin, and none of a U-Net's."""

DOWN, UP, ALPHA = "down", "up", "alpha"
"""The parts of a change: the matrices A and B, and the number alpha."""

ENDINGS: Mapping[str, str] = {
    r"\.lora_down\.weight": DOWN,
    r"\.lora_up\.weight": UP,
    r"\.lora_A(\.default)?\.weight": DOWN,
    r"\.lora_B(\.default)?\.weight": UP,
    r"(\.lora|_lora|\.lora_linear_layer)\.down\.weight": DOWN,
    r"(\.lora|_lora|\.lora_linear_layer)\.up\.weight": UP,
    r"(_lora)?\.alpha": ALPHA,
}
"""Patterns of the ends of names -> the part: kohya's, peft's, and those of earlier versions of diffusers."""

OTHER_KINDS: Mapping[str, str] = {
    r"\.hada_\w+$": "LoHa",
    r"\.lokr_\w+$": "LoKr",
    r"\.lora_mid\.weight$": "LoCon with a third matrix (Tucker decomposition)",
    r"\.dora_scale$|\.lora_magnitude_vector": "DoRA",
    r"\.oft_\w+$": "OFT",
    r"\.on_input$": "(IA)^3",
    r"\.(diff|diff_b|w_norm|b_norm)$": "whole changes of weights",
    r"\.lora_[AB](\.default)?\.bias$": "LoRA with biases",
}
"""Patterns of names in files of other kinds of adapters, mostly LyCORIS -> the kind."""


class LoRAName(NamedTuple):
    """The name of a tensor in a LoRA file.

    Attributes:
        network: The network that is changed.
        layer: The layer, as diffusers or transformers call it, with "_" in place of each dot.
        part: The part of the change.
        dotted: The same with dots, where the file has them.
    """

    network: str
    layer: str
    part: str
    dotted: str


def read_name(name: str) -> LoRAName | None:
    """Return the parts of a tensor's name; None where it is not a name in a LoRA."""
    ends = ((part, re.search(f"{pattern}$", name)) for pattern, part in ENDINGS.items())
    part, rest = next(((part, name[: end.start()]) for part, end in ends if end is not None), (None, ""))
    if part is None:
        return None
    rest = rest.removeprefix(WRAPPER)
    begin = next((begin for begin in BEGINNINGS if rest.startswith(begin)), "")
    network = BEGINNINGS.get(begin, TEXT if TEXT_LAYER.match(rest) else UNET)
    dotted = _of_today(rest.removeprefix(begin), network)
    layer = dotted.replace(".", "_")
    return LoRAName(network, layer if network == UNET else layer.removeprefix("text_model_"), part, dotted)


def other_kind(name: str) -> str | None:
    """Return the kind of an adapter that is not read and has a tensor of this name; None: no such kind is known."""
    return next((kind for pattern, kind in OTHER_KINDS.items() if re.search(pattern, name)), None)


def _of_today(layer: str, network: str) -> str:
    """Return the name that a layer of an attention has today; early files name the attention's processor."""
    match = re.fullmatch(r"(.*?)(?:\.processor)?\.to_(q|k|v|out)", layer)
    if match is None:
        return layer
    if network != UNET:
        return f"{match[1]}.{match[2]}_proj"
    return f"{match[1]}.to_{match[2]}" + (".0" if match[2] == "out" else "")
