"""Autoencoders of CompVis: names and shapes of the published ones, round trips, and its formula of attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from ldm.config import compose, resolved
from ldm.interop.autoencoder import compvis
from tests.cases import mostly_slow
from tests.interop.autoencoder.published import PUBLISHED, Published, compvis_shapes
from tests.interop.autoencoder.tiny import TINY, random_autoencoder, random_tensors

SMALL = Published(4, (1, 2, 3), (1,), blocks=1, ch=32)
SMALL_VQ = SMALL._replace(codes=48)


def sizes(model):
    return {name: torch.Size(shape) for name, shape in compvis_shapes(model).items()}


def node_of(name):
    node = resolved(compose("train", ["experiment=txt2img_shards", f"autoencoder={name}"]).autoencoder.network)
    assert node.pop("_target_") == "ldm.autoencoder.convolutional.ConvAutoencoder"
    return {"middle_attention": True, "groups": 32} | node


@pytest.mark.parametrize("name", mostly_slow(PUBLISHED, ["kl_f8", "vq_f4"]))
def test_the_published_autoencoders_are_those_of_our_configs(name):
    shapes = sizes(PUBLISHED[name])
    assert compvis.is_autoencoder(shapes)
    options = compvis.options(shapes)
    assert options == node_of(name)
    table = compvis.translation(options)
    assert table.names == set(shapes), "each tensor has a name, and no name has no tensor"
    meta = {known: torch.empty(shape, device="meta") for known, shape in shapes.items()}
    reading = table.read(meta)
    assert reading.used == set(shapes)
    assert {known: tensor.shape for known, tensor in table.write(reading.weights).items()} == shapes


def test_the_autoencoder_of_stable_diffusion_has_its_size():
    shapes = sizes(PUBLISHED["kl_f8"])
    assert len(shapes) == 248
    assert sum(shape.numel() for shape in shapes.values()) == 83_653_863
    assert shapes["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)


@pytest.mark.parametrize("name", TINY)
def test_reading_what_was_written_gives_the_same_tensors(name):
    weights = random_autoencoder(TINY[name]).state_dict()
    table = compvis.translation(TINY[name])
    written = table.write(weights)
    assert compvis.options({key: tensor.shape for key, tensor in written.items()}) == TINY[name]
    read = table.read(written).weights
    assert set(weights) - set(read) == {"shift", "scale", "statistics_count"}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in read.items())


@pytest.mark.parametrize("model", [SMALL, SMALL_VQ])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_writing_what_was_read_gives_the_same_bytes(model, dtype):
    tensors = random_tensors(compvis_shapes(model), dtype)
    table = compvis.translation(compvis.options(sizes(model)))
    written = table.write(table.read(tensors).weights)
    assert written.keys() == tensors.keys()
    for key, tensor in written.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor.view(torch.uint8), tensors[key].view(torch.uint8))


def test_the_decoder_has_its_levels_in_the_order_of_ours_and_the_encoder_its_attention():
    """The network, computed by the names of the layout: no test but this one would see levels in the wrong order."""
    network = random_autoencoder(TINY["kl"])
    named = compvis.translation(TINY["kl"]).write(network.state_dict())
    image = torch.rand(1, 3, 16, 16) * 2 - 1

    def convolve(x, layer, **options):
        return F.conv2d(x, named[f"{layer}.weight"], named[f"{layer}.bias"], **options)

    def norm(x, layer):
        return F.group_norm(x, 32, named[f"{layer}.weight"], named[f"{layer}.bias"], 1e-6)

    def resnet(x, block):
        hidden = convolve(F.silu(norm(x, f"{block}.norm1")), f"{block}.conv1", padding=1)
        hidden = convolve(F.silu(norm(hidden, f"{block}.norm2")), f"{block}.conv2", padding=1)
        skip = f"{block}.nin_shortcut"
        return hidden + (convolve(x, skip) if f"{skip}.weight" in named else x)

    def attend(x, block):
        normed = norm(x, f"{block}.norm")
        query, key, value = (convolve(normed, f"{block}.{name}").flatten(2) for name in "qkv")
        chances = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(x.shape[1]), dim=2)  # (B, query, key)
        return x + convolve((value @ chances.transpose(1, 2)).view_as(x), f"{block}.proj_out")

    def middle(x, half):
        x = attend(resnet(x, f"{half}.mid.block_1"), f"{half}.mid.attn_1")
        return resnet(x, f"{half}.mid.block_2")

    def out(x, half):
        return convolve(F.silu(norm(x, f"{half}.norm_out")), f"{half}.conv_out", padding=1)

    x = convolve(image, "encoder.conv_in", padding=1)
    for level in range(3):
        x = resnet(x, f"encoder.down.{level}.block.0")
        x = attend(x, f"encoder.down.{level}.attn.0") if level == 1 else x
        if level < 2:
            x = convolve(F.pad(x, (0, 1, 0, 1)), f"encoder.down.{level}.downsample.conv", stride=2)
    moments = convolve(out(middle(x, "encoder"), "encoder"), "quant_conv")
    raw = moments[:, :4]
    x = middle(convolve(convolve(raw, "post_quant_conv"), "decoder.conv_in", padding=1), "decoder")
    for level in (2, 1, 0):
        for block in range(2):
            x = resnet(x, f"decoder.up.{level}.block.{block}")
            x = attend(x, f"decoder.up.{level}.attn.{block}") if level == 1 else x
        if level:
            x = convolve(F.interpolate(x, scale_factor=2), f"decoder.up.{level}.upsample.conv", padding=1)
    expected = out(x, "decoder")
    with torch.no_grad():
        torch.testing.assert_close(network.encode_moments(image), moments, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network.decode(raw), expected, atol=1e-5, rtol=1e-5)


def test_what_belongs_to_training_is_dropped_and_nothing_else():
    names = [
        *compvis_shapes(SMALL), "loss.logvar", "loss.perceptual_loss.net.slice1.0.weight", "model_ema.num_updates",
        "loss.discriminator.main.0.weight", "model_ema.decay", "model_ema.encoderconv_inweight", "lossless",
    ]  # fmt: skip
    dropped = compvis.dropped(names)
    assert set(dropped) == set(names) - set(compvis_shapes(SMALL)) - {"lossless"}
    assert "perceptual" in dropped["loss.perceptual_loss.net.slice1.0.weight"]
    assert "discriminator" in dropped["loss.discriminator.main.0.weight"]


@pytest.mark.parametrize("model", [SMALL, SMALL_VQ])
def test_missing_and_misshaped_tensors_are_named(model):
    tensors = random_tensors(compvis_shapes(model))
    table = compvis.translation(compvis.options(sizes(model)))
    lost = {name: tensor for name, tensor in tensors.items() if name != "decoder.up.2.block.1.norm1.bias"}
    with pytest.raises(ValueError, match=r"missing: decoder\.up\.2\.block\.1\.norm1\.bias"):
        table.read(lost)
    tensors["encoder.mid.attn_1.k.weight"] = torch.zeros(96, 95, 1, 1)
    with pytest.raises(ValueError, match=r"encoder\.mid\.attn_1\.k\.weight has the shape \(96, 95, 1, 1\)"):
        table.read(tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_conv.weight": None}, "no quant_conv.weight"),
        ({"post_quant_conv.weight": None}, "no post_quant_conv.weight"),
        ({"encoder.conv_in.weight": None}, "missing: encoder.conv_in.weight"),
        ({"encoder.down.0.block.0.conv1.weight": None}, "missing: encoder.down.0.block.0.conv1.weight"),
        ({"quant_conv.weight": (6, 8, 1, 1), "post_quant_conv.weight": (4, 3, 1, 1)}, "z_channels and embed_dim"),
        ({"quant_conv.weight": (4, 4, 1, 1)}, "neither mean and log-variance nor"),
        ({"quant_conv.weight": (8, 8)}, r"quant_conv.weight has the shape \(8, 8\)"),
        ({"quantize.embedding.weight": (64, 4)}, "quant_conv gives 8 channels, codes have 4"),
        ({"quantize.embedding.weight": (64,)}, "no list of codes"),
        ({"encoder.time_mix.weight": (1,)}, "embedding of time, like encoder.time_mix.weight"),
        ({"encoder.down.0.block.0.temb_proj.weight": (1,)}, "embedding of time"),
        ({"encoder.mid.attn_1.to_qkv.weight": (1, 1, 1, 1)}, "attention is linear"),
        ({"encoder.conv_in.weight": (32, 1, 3, 3)}, "images of 1 channels"),
        ({"encoder.conv_in.weight": (48, 3, 3, 3)}, "multiples of the latter"),
        ({"encoder.conv_in.weight": (8, 3, 3, 3)}, "groups do not divide"),
    ],
)
def test_other_autoencoders_are_refused(changes, message):
    shapes = sizes(SMALL)
    for name, shape in changes.items():
        if shape is None:
            del shapes[name]
        else:
            shapes[name] = torch.Size(shape)
    with pytest.raises(ValueError, match=message):
        compvis.options(shapes)


def test_options_that_the_layout_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="32 groups, and these have 4"):
        compvis.translation(TINY["kl"] | {"groups": 4})
    quantised = TINY["vq"] | {"regularizer": TINY["vq"]["regularizer"] | {"quantized_latents": True}}
    with pytest.raises(ValueError, match="quantized_latents=true"):
        compvis.translation(quantised)
    with pytest.raises(ValueError, match="CopyAutoencoder has no counterpart"):
        compvis.translation({"_target_": "ldm.autoencoder.identity.CopyAutoencoder"})
    with pytest.raises(ValueError, match=r"mine\.Own has no counterpart"):
        compvis.translation(TINY["kl"] | {"regularizer": {"_target_": "mine.Own"}})


def test_counters_of_unused_codes_are_not_written():
    revived = TINY["vq"] | {"regularizer": TINY["vq"]["regularizer"] | {"revive_after": 5}}
    weights = random_autoencoder(revived).state_dict()
    assert "regularizer.unused" in weights
    assert set(compvis.translation(revived).write(weights)) == set(compvis_shapes(SMALL_VQ))
