"""Names and shapes of the tensors of CompVis' U-Net, written down in the order in which its constructor makes the layers.

Blocks are counted as they are made, and the channels of skip connections are kept on a stack, as there.
"""


def unet(
    *, in_channels, out_channels, model_channels, channel_mult, blocks, attention_levels,
    context_width=None, depth=1, linear=False, scale_shift=False, resblock_updown=False, vector_width=None,
):  # fmt: skip
    """Return name -> shape."""
    found = {}
    time_width = 4 * model_channels

    def layer(name, *shape):
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[:1]

    def residual(name, before, after):
        layer(f"{name}.in_layers.0", before)
        layer(f"{name}.in_layers.2", after, before, 3, 3)
        layer(f"{name}.emb_layers.1", after * (2 if scale_shift else 1), time_width)
        layer(f"{name}.out_layers.0", after)
        layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            layer(f"{name}.skip_connection", after, before, 1, 1)

    def attention(name, width):
        layer(f"{name}.norm", width)
        if context_width is None:
            layer(f"{name}.qkv", 3 * width, width, 1)
            layer(f"{name}.proj_out", width, width, 1)
            return
        kernel = () if linear else (1, 1)
        layer(f"{name}.proj_in", width, width, *kernel)
        for index in range(depth):
            block = f"{name}.transformer_blocks.{index}"
            for which, context in (("attn1", width), ("attn2", context_width)):
                found[f"{block}.{which}.to_q.weight"] = (width, width)
                found[f"{block}.{which}.to_k.weight"] = (width, context)
                found[f"{block}.{which}.to_v.weight"] = (width, context)
                layer(f"{block}.{which}.to_out.0", width, width)
            layer(f"{block}.ff.net.0.proj", 8 * width, width)
            layer(f"{block}.ff.net.2", width, 4 * width)
            for norm in ("norm1", "norm2", "norm3"):
                layer(f"{block}.{norm}", width)
        layer(f"{name}.proj_out", width, width, *kernel)

    layer("time_embed.0", time_width, model_channels)
    layer("time_embed.2", time_width, time_width)
    if vector_width is not None:
        layer("label_emb.0.0", time_width, vector_width)
        layer("label_emb.0.2", time_width, time_width)
    layer("input_blocks.0.0", model_channels, in_channels, 3, 3)
    skips, width, made = [model_channels], model_channels, 1
    for level, multiplier in enumerate(channel_mult):
        for _ in range(blocks):
            residual(f"input_blocks.{made}.0", width, multiplier * model_channels)
            width = multiplier * model_channels
            if level in attention_levels:
                attention(f"input_blocks.{made}.1", width)
            skips.append(width)
            made += 1
        if level < len(channel_mult) - 1:
            if resblock_updown:
                residual(f"input_blocks.{made}.0", width, width)
            else:
                layer(f"input_blocks.{made}.0.op", width, width, 3, 3)
            skips.append(width)
            made += 1
    residual("middle_block.0", width, width)
    attention("middle_block.1", width)
    residual("middle_block.2", width, width)
    made = 0
    for level, multiplier in reversed(list(enumerate(channel_mult))):
        for index in range(blocks + 1):
            residual(f"output_blocks.{made}.0", width + skips.pop(), multiplier * model_channels)
            width, part = multiplier * model_channels, 1
            if level in attention_levels:
                attention(f"output_blocks.{made}.1", width)
                part = 2
            if level and index == blocks:
                if resblock_updown:
                    residual(f"output_blocks.{made}.{part}", width, width)
                else:
                    layer(f"output_blocks.{made}.{part}.conv", width, width, 3, 3)
            made += 1
    layer("out.0", width)
    layer("out.2", out_channels, width, 3, 3)
    return found
