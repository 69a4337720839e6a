"""Names and shapes of the published autoencoders, written out by the structure of the classes they were trained with."""

from typing import Any, NamedTuple


class Published(NamedTuple):
    """The options that the config of a published autoencoder has.

    With `codes`, it is a VQModel, else an AutoencoderKL. `attention` are levels, counted from the image.
    """

    z_channels: int
    ch_mult: tuple[int, ...]
    attention: tuple[int, ...] = ()
    codes: int | None = None
    middle: bool = True
    ch: int = 128
    blocks: int = 2


PUBLISHED = {
    "kl_f4": Published(3, (1, 2, 4)),
    "kl_f8": Published(4, (1, 2, 4, 4)),
    "kl_f16": Published(16, (1, 1, 2, 2, 4), (4,)),
    "kl_f32": Published(64, (1, 1, 2, 2, 4, 4), (4, 5)),
    "vq_f4": Published(3, (1, 2, 4), codes=8192),
    "vq_f4_noattn": Published(3, (1, 2, 4), codes=8192, middle=False),
    "vq_f8": Published(4, (1, 2, 2, 4), (3,), codes=16384),
    "vq_f8_n256": Published(4, (1, 2, 2, 4), (3,), codes=256),
    "vq_f16": Published(8, (1, 1, 2, 2, 4), (4,), codes=16384),
}

SD_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
"""config.json of the autoencoder of Stable Diffusion 1."""

LDM_VQ = {
    "_class_name": "VQModel",
    "_diffusers_version": "0.1.2",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "in_channels": 3,
    "latent_channels": 3,
    "layers_per_block": 2,
    "num_vq_embeddings": 8192,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}
"""config.json of the autoencoder of the unconditional models of faces."""

FLUX_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.30.0.dev0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": 2,
    "mid_block_add_attention": True,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
"""config.json of the autoencoder of FLUX, which has no quant_conv."""


def compvis_shapes(model: Published) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a published autoencoder in the layout of CompVis."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name, *weight):
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    def resnet(name, before, after):
        layer(f"{name}.norm1", before)
        layer(f"{name}.conv1", after, before, 3, 3)
        layer(f"{name}.norm2", after)
        layer(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            layer(f"{name}.nin_shortcut", after, before, 1, 1)

    def attention(name, width):
        layer(f"{name}.norm", width)
        for projection in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{projection}", width, width, 1, 1)

    def middle(half, width):
        resnet(f"{half}.mid.block_1", width, width)
        if model.middle:
            attention(f"{half}.mid.attn_1", width)
        resnet(f"{half}.mid.block_2", width, width)

    widths = [model.ch * multiplier for multiplier in model.ch_mult]
    moments = model.z_channels * (2 if model.codes is None else 1)

    layer("encoder.conv_in", model.ch, 3, 3, 3)
    before = model.ch
    for level, width in enumerate(widths):
        for block in range(model.blocks):
            resnet(f"encoder.down.{level}.block.{block}", before, width)
            before = width
            if level in model.attention:
                attention(f"encoder.down.{level}.attn.{block}", width)
        if level != len(widths) - 1:
            layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    middle("encoder", before)
    layer("encoder.norm_out", before)
    layer("encoder.conv_out", moments, before, 3, 3)

    layer("decoder.conv_in", before, model.z_channels, 3, 3)
    middle("decoder", before)
    for level in reversed(range(len(widths))):
        for block in range(model.blocks + 1):
            resnet(f"decoder.up.{level}.block.{block}", before, widths[level])
            before = widths[level]
            if level in model.attention:
                attention(f"decoder.up.{level}.attn.{block}", before)
        if level != 0:
            layer(f"decoder.up.{level}.upsample.conv", before, before, 3, 3)
    layer("decoder.norm_out", before)
    layer("decoder.conv_out", 3, before, 3, 3)

    layer("quant_conv", moments, moments, 1, 1)
    layer("post_quant_conv", model.z_channels, model.z_channels, 1, 1)
    if model.codes is not None:
        shapes["quantize.embedding.weight"] = (model.codes, model.z_channels)
    return shapes
