"""The U-Net of diffusers: its config is ours, and with the same weights both give the same numbers."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.interop.unet.diffusers import is_unet, renamed, translation
from ldm.interop.unet.diffusers_config import unet_config, unet_options, uses_linear
from tests.backbone.test_unet import ZOO
from tests.conftest import scramble
from tests.interop.unet.test_compvis import SMALL, options_of

PUBLISHED = {
    "stable_diffusion_1": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.6.0",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    },
    "stable_diffusion_2": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.10.0.dev0",
        "act_fn": "silu",
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "num_class_embeds": None,
        "only_cross_attention": False,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "use_linear_projection": True,
    },
    "txt2img_1p4b": {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1280,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "out_channels": 4,
        "sample_size": 32,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    },
    "celeba256": {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.0.4",
        "act_fn": "silu",
        "attention_head_dim": 32,
        "block_out_channels": [224, 448, 672, 896],
        "center_input_sample": False,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 3,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 64,
        "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
}
"""The config.json files of published models."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_the_networks_of_the_zoo(name):
    found, wanted = unet_options(PUBLISHED[name]), options_of(name)
    assert found.pop("groups") == 32
    assert {key: found.get(key) for key in wanted} == wanted
    with torch.device("meta"):
        network = UNet(**found)
    table = translation(found, linear=uses_linear(PUBLISHED[name]))
    assert sum(network.state_dict()[tie].numel() for one in table.ties for tie in one.ours) == ZOO[name].exact


CASES = {
    "tokens": ({}, False),
    "linear": ({"heads": None, "head_channels": 16, "depth": 2}, True),
    "vector": ({"vector_width": 7, "scale_shift": True}, False),
    "beside": ({"concat_channels": 2}, False),
    "alone": ({"context_width": None, "heads": None, "head_channels": 16}, False),
    "residual": (
        {"context_width": None, "scale_shift": True, "residual_resampling": True, "heads": None, "head_channels": 16},
        False,
    ),
}


def telling(network):
    """Give a network random weights with which attention tells places apart, and outputs are not small."""
    scramble(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.mul_(8.0 if ".query." in name or ".key." in name or name.startswith("conv_out") else 2.0)
    return network


@pytest.fixture(params=CASES)
def case(request):
    """Return options of ours, whether projections are linear, our network, and theirs with the same weights."""
    change, linear = CASES[request.param]
    options = {**SMALL, **change}
    ours = telling(UNet(**options)).eval()
    config = unet_config(options, sample_size=8, linear=linear)
    kind = UNet2DConditionModel if options["context_width"] else UNet2DModel
    theirs = kind.from_config(config).eval()
    theirs.load_state_dict(translation(options, linear=linear).write(ours.state_dict()))
    return options, linear, ours, theirs


def test_both_give_the_same_numbers(case):
    options, _, ours, theirs = case
    beside = options.get("concat_channels", 0)
    x, concat = torch.randn(2, 4, 8, 8), torch.randn(2, beside, 8, 8)
    tokens = torch.randn(2, 5, 24) if options["context_width"] else None
    vector = torch.randn(2, 7) if options.get("vector_width") else None
    steps = torch.tensor([3, 712])
    inputs = torch.cat([x, concat], dim=1)
    with torch.no_grad():
        told = () if tokens is None else (tokens, vector)
        expected = theirs(inputs, steps, *told).sample
        got = ours(x, (steps + 1) / 1000, Condition(tokens=tokens, vector=vector, concat=concat if beside else None))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_their_config_gives_our_options_and_their_weights_ours(case):
    options, linear, ours, theirs = case
    found = unet_options(dict(theirs.config))
    assert uses_linear(theirs.config) == linear
    weights = theirs.state_dict()
    assert is_unet(weights)
    reading = translation(found, linear=linear).read(weights)
    assert reading.used == set(weights)
    assert all(torch.equal(reading.weights[name], tensor) for name, tensor in ours.state_dict().items())
    with torch.device("meta"):
        again = UNet(**found)
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in ours.state_dict().items()
    }
    written = unet_config(found, sample_size=8, linear=linear)
    expected = unet_config(options, sample_size=8, linear=linear)
    assert written == expected
    attention = [part.heads for part in ours.modules() if hasattr(part, "heads")]
    assert [part.heads for part in again.modules() if hasattr(part, "heads")] == attention


def test_names_of_old_files_are_those_of_today():
    old = {
        "down_blocks.1.attentions.0.query.weight": torch.randn(8, 8, 1, 1),
        "mid_block.attentions.0.proj_attn.bias": torch.randn(8),
        "conv_in.weight": torch.randn(8, 4, 3, 3),
    }
    found = renamed(old)
    assert torch.equal(
        found["down_blocks.1.attentions.0.to_q.weight"], old["down_blocks.1.attentions.0.query.weight"][..., 0, 0]
    )
    assert found["mid_block.attentions.0.to_out.0.bias"] is old["mid_block.attentions.0.proj_attn.bias"]
    assert found["conv_in.weight"] is old["conv_in.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn='gelu' of the U-Net's config.json cannot be; here it is 'silu'"),
        ({"freq_shift": 1}, "freq_shift=1"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
        ({"dual_cross_attention": True}, "dual_cross_attention=True .* is not known here"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type='text_time'"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"layers_per_block": [1, 2, 2, 2]}, r"layers_per_block=\[1, 2, 2, 2\] .* differs from level to level"),
        ({"block_out_channels": [320, 500, 1280, 1280]}, "all must be multiples of the first"),
        ({"down_block_types": ["SimpleCrossAttnDownBlock2D"] * 4}, "levels of the kind SimpleCrossAttnDownBlock2D"),
        ({"down_block_types": ["DownBlock2D"] * 4}, "attend at different levels"),
        ({"attention_head_dim": [5, 10, 20, 10]}, "neither the same heads nor heads of the same channels"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift='spatial'"),
        ({"_class_name": "UNet3DConditionModel"}, "_class_name=UNet3DConditionModel is none of"),
    ],
)
def test_a_config_that_ours_cannot_be_is_refused_by_its_key(change, message):
    with pytest.raises(ValueError, match=message):
        unet_options({**PUBLISHED["stable_diffusion_1"], **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool_tokens": True, "vector_width": 7}, "backbone.pool_tokens=true with a vector_width"),
        ({"channel_mult": [2, 4]}, "begins with another multiplier than 1"),
        ({"residual_resampling": True}, "backbone.residual_resampling=true with tokens"),
        ({"context_width": None, "vector_width": 7}, "backbone.vector_width without context_width"),
        ({"context_width": None, "attention_levels": [0, 1]}, r"backbone.heads=2 gives heads of \[16, 32\] channels"),
    ],
)
def test_options_that_theirs_cannot_be_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        unet_config({**SMALL, **change}, sample_size=8, linear=False)
