"""LoRA files in the layouts of other programs, with random matrices for the layers of a pipeline."""

import torch
from safetensors.torch import save_file

RANK, ALPHA = 4, 6.0
UNET_LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv")
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def layers_in(network, ends):
    """Return name -> layer of the layers whose names end so."""
    return {name: layer for name, layer in network.named_modules() if name.endswith(tuple(f".{end}" for end in ends))}


def matrices(layer, generator, *, std=0.05):
    """Return random matrices A and B for a layer; the first one of a convolution is one with the same kernel."""
    kernel = layer.weight.shape[2:]
    down = torch.randn(RANK, layer.weight.shape[1], *kernel, generator=generator) * std
    up = torch.randn(layer.weight.shape[0], RANK, *[1] * len(kernel), generator=generator) * std
    return down, up


def changes(pipe, *, convolutions=True, text=True):
    """Return (network, layer) -> matrices of layers of a pipeline, by their names in diffusers and transformers."""
    generator = torch.Generator().manual_seed(7)
    found = layers_in(pipe.unet, UNET_LAYERS + (CONVOLUTIONS if convolutions else ()))
    pairs = {("unet", name): matrices(layer, generator) for name, layer in found.items()}
    if text:
        found = layers_in(pipe.text_encoder, TEXT_LAYERS)
        pairs |= {("text_encoder", name): matrices(layer, generator, std=0.1) for name, layer in found.items()}
    return pairs


def kohya(pairs, *, alpha=ALPHA):
    """Return the tensors of matrices as kohya's scripts name them."""
    begins = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
    tensors = {}
    for (network, layer), (down, up) in pairs.items():
        stem = begins[network] + layer.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(float(alpha))
    return tensors


def named(pairs, down, up, *, prefix=True, rename=lambda name: name):
    """Return the tensors of matrices as diffusers names them, with these endings."""
    return {
        rename((f"{network}." if prefix else "") + layer) + end: matrix
        for (network, layer), both in pairs.items()
        for end, matrix in zip((down, up), both, strict=True)
    }


def write(file, tensors, metadata=None):
    """Write a file, and return its path."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    return file
