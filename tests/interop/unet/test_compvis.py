"""CompVis' names of the U-Net: options are read from shapes, every tensor has its place, and numbers come back unchanged."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.interop.unet import compvis
from ldm.interop.unet.diffusers_config import unet_config
from ldm.interop.unet.names import empty_unet
from tests.backbone.test_unet import ZOO, settings
from tests.cases import mostly_slow
from tests.conftest import scramble
from tests.interop.unet import published

FULL = {"depth": 1, "scale_shift": False, "residual_resampling": False}
"""Options that a config leaves out."""


def options_of(name):
    """Return the options of a network of the zoo, with all channels of its input together."""
    options = {**FULL, **settings(name)}
    options["in_channels"] += options.pop("concat_channels")
    return options


def published_of(options, *, linear):
    same = (
        "in_channels",
        "out_channels",
        "model_channels",
        "channel_mult",
        "blocks",
        "attention_levels",
        "context_width",
    )
    return published.unet(
        **{name: options[name] for name in (*same, "depth", "scale_shift", "vector_width")},
        resblock_updown=options["residual_resampling"],
        linear=linear,
    )


@pytest.mark.parametrize("name", mostly_slow(ZOO, ["stable_diffusion_2", "lsun_churches256"]))
def test_the_options_of_each_published_network_are_read_from_its_tensors(name):
    options = options_of(name)
    linear = options.get("head_channels") == 64
    shapes = {key: torch.Size(shape) for key, shape in published_of(options, linear=linear).items()}
    assert compvis.is_unet(shapes)
    assert compvis.uses_linear(shapes) == linear
    found = compvis.options(shapes)
    heads = {"heads", "head_channels"}
    assert {key: value for key, value in found.items() if key not in heads} == {
        key: value for key, value in options.items() if key not in heads
    }
    assert found.get("head_channels") == (64 if linear else None)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    reading = compvis.translation(options, linear=linear).read(tensors)
    assert reading.used == set(shapes)
    assert {key: value.shape for key, value in reading.weights.items()} == {
        key: value.shape for key, value in empty_unet(options).state_dict().items()
    }
    assert sum(tensor.numel() for tensor in tensors.values()) == ZOO[name].exact


@pytest.mark.parametrize("name", ["stable_diffusion_1", "stable_diffusion_2"])
def test_stable_diffusion_has_686_tensors(name):
    assert len(published_of(options_of(name), linear=name.endswith("2"))) == 686


SMALL = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "blocks": 1,
    "attention_levels": [1],
    "context_width": 24,
    "heads": 2,
}


@pytest.mark.parametrize(
    ("options", "linear"),
    [
        ({}, False),
        ({"depth": 2}, True),
        ({"vector_width": 7}, False),
        ({"context_width": None, "scale_shift": True, "residual_resampling": True}, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_numbers_come_back_unchanged(options, linear, dtype):
    translation = compvis.translation({**SMALL, **options}, linear=linear)
    ours = {name: torch.randn(shape).to(dtype) for name, shape in translation.shapes.items()}
    theirs = translation.write(ours)
    assert all(tensor.dtype == dtype and tensor.is_contiguous() for tensor in theirs.values())
    again = translation.read(theirs).weights
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    written = translation.write(again)
    assert written.keys() == theirs.keys()
    assert all(torch.equal(written[name], theirs[name]) for name in theirs)


def telling(network):
    """Give a network random weights with which attention tells places apart, and outputs are not small."""
    scramble(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.mul_(8.0 if ".query." in name or ".key." in name or name.startswith("conv_out") else 2.0)
    return network


def legacy_attention(x, weights, heads):
    """Return their attention of maps: queries, keys and values of each head stand behind each other."""
    batch, channels = x.shape[:2]
    sequence = x.reshape(batch, channels, -1)
    normed = torch.nn.functional.group_norm(sequence, 32, weights["norm.weight"], weights["norm.bias"], eps=1e-5)
    qkv = torch.nn.functional.conv1d(normed, weights["qkv.weight"], weights["qkv.bias"])
    q, k, v = qkv.reshape(batch * heads, 3 * channels // heads, -1).split(channels // heads, dim=1)
    scale = 1 / math.sqrt(math.sqrt(channels // heads))
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
    attended = torch.einsum("bts,bcs->bct", weight, v).reshape(batch, channels, -1)
    out = torch.nn.functional.conv1d(attended, weights["proj_out.weight"], weights["proj_out.bias"])
    return (sequence + out).reshape(x.shape)


def test_attention_in_one_layer_is_ours_in_four():
    translation = compvis.translation({**SMALL, "context_width": None}, linear=False)
    network = UNet(**{**SMALL, "context_width": None})
    weights = {name: 0.5 * torch.randn(shape) for name, shape in translation.shapes.items()}
    network.load_state_dict(weights)
    theirs = translation.write(weights)
    x = torch.randn(2, 64, 4, 4)
    own = {
        name.removeprefix("middle_block.1."): value
        for name, value in theirs.items()
        if name.startswith("middle_block.1.")
    }
    with torch.no_grad():
        torch.testing.assert_close(network.middle[0].attention(x), legacy_attention(x, own, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "linear"),
    [
        ({"channel_mult": [1, 2, 4], "attention_levels": [0, 1], "blocks": 2}, False),
        ({"channel_mult": [1, 2, 4], "attention_levels": [1, 2], "depth": 2}, True),
        ({"vector_width": 7, "scale_shift": True}, False),
    ],
)
def test_diffusers_reads_their_names_as_the_same_network(options, linear):
    """The reader of single files that diffusers has makes of our CompVis tensors a network of the same outputs."""
    options = {**SMALL, **options}
    ours = telling(UNet(**options)).eval()
    theirs = compvis.translation(options, linear=linear).write(ours.state_dict())
    config = unet_config(options, sample_size=8, linear=linear)
    converted = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{name}": one for name, one in theirs.items()}, config
    )
    network = UNet2DConditionModel.from_config(config).eval()
    network.load_state_dict(converted)
    x, steps, tokens = torch.randn(2, 4, 8, 8), torch.tensor([3, 712]), torch.randn(2, 5, 24)
    vector = torch.randn(2, 7) if options.get("vector_width") else None
    with torch.no_grad():
        expected = network(x, steps, tokens, vector).sample
        got = ours(x, (steps + 1) / 1000, Condition(tokens=tokens, vector=vector))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_head_has_64_channels_only_where_64_divides_them():
    full = {**FULL, "vector_width": None, **SMALL, "model_channels": 32, "channel_mult": [1, 3]}
    shapes = {name: torch.Size(shape) for name, shape in published_of(full, linear=True).items()}
    assert compvis.uses_linear(shapes)
    assert "head_channels" not in compvis.options(shapes)


def test_an_embedding_of_the_mean_token_is_refused():
    with pytest.raises(ValueError, match="the layout of CompVis has no place for backbone.pool_tokens"):
        compvis.translation({**SMALL, "pool_tokens": True}, linear=False)


def test_missing_and_misshaped_tensors_are_named():
    translation = compvis.translation(SMALL, linear=False)
    theirs = translation.write({name: torch.randn(shape) for name, shape in translation.shapes.items()})
    del theirs["time_embed.0.bias"]
    theirs["out.2.weight"] = torch.randn(3, 32, 3, 3)
    with pytest.raises(ValueError, match=r"missing: time_embed.0.bias; out.2.weight has the shape \(3, 32, 3, 3\)"):
        translation.read(theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_emb.weight": (1000, 128)}, "embeds classes itself"),
        ({"input_blocks.0.0.weight": None}, "input_blocks.0.0.weight or out.2.weight is missing"),
        (
            {
                f"{name}.{kind}": None
                for name in ("input_blocks.2.0.op", "output_blocks.1.2.conv")
                for kind in ("weight", "bias")
            },
            r"input_blocks \[2\] have no tensors, .*conv_resample=False",
        ),
        (
            {"middle_block.1.transformer_blocks.1.norm1.weight": (64,)},
            r"\.1 has 1 transformer blocks and middle_block.1 has 2 transformer blocks, as in Stable Diffusion XL",
        ),
        ({"output_blocks.7.0.in_layers.0.weight": (3,)}, "5 output_blocks cannot be those of 2 levels"),
        ({"input_blocks.3.0.out_layers.3.weight": (40, 40, 3, 3)}, r"levels of \[32, 40\] channels are no multiples"),
        ({"input_blocks.1.0.out_layers.3.weight": None}, "input_blocks.1.0.out_layers.3.weight is missing"),
    ],
)
def test_what_is_no_network_of_ours_is_refused(change, message):
    full = {**FULL, "vector_width": None, **SMALL}
    shapes = {**published_of(full, linear=False), **change}
    with pytest.raises(ValueError, match=message):
        compvis.options({name: torch.Size(shape) for name, shape in shapes.items() if shape is not None})
