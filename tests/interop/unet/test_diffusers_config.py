"""The config.json of diffusers' U-Nets: published ones are networks of the zoo, and no key of theirs goes unread."""

import inspect

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from ldm.backbone.unet import UNet
from ldm.interop.unet.diffusers import translation
from ldm.interop.unet.diffusers_config import unet_config, unet_options, uses_linear
from ldm.interop.unet.diffusers_keys import FIXED, IGNORED, USUAL
from tests.backbone.test_unet import ZOO
from tests.cases import mostly_slow
from tests.interop.unet.test_compvis import SMALL, options_of

CLASSES = {kind.__name__: kind for kind in (UNet2DConditionModel, UNet2DModel)}

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
"""The config.json files of published models; that of txt2img_1p4b lacks keys that have their usual values."""


@pytest.mark.parametrize("name", mostly_slow(PUBLISHED, ["stable_diffusion_1", "celeba256"]))
def test_published_configs_are_the_networks_of_the_zoo(name):
    found, wanted = unet_options(PUBLISHED[name]), options_of(name)
    assert found.pop("groups") == 32
    assert {key: found.get(key) for key in wanted} == wanted
    with torch.device("meta"):
        network = UNet(**found)
    table = translation(found, linear=uses_linear(PUBLISHED[name]))
    assert sum(network.state_dict()[tie].numel() for one in table.ties for tie in one.ours) == ZOO[name].exact


@pytest.mark.parametrize("name", CLASSES)
def test_a_key_that_is_left_out_has_the_value_of_their_constructor(name):
    parameters = inspect.signature(CLASSES[name].__init__).parameters
    theirs = {key: parameter.default for key, parameter in parameters.items() if key != "self"}
    own = {**FIXED[name], **USUAL[name]}
    assert own == {key: theirs[key] for key in own}
    assert unet_options({"_class_name": name}) == unet_options({"_class_name": name, **theirs})


@pytest.mark.parametrize("name", CLASSES)
def test_no_key_of_theirs_goes_unread(name):
    """A value that none of the keys knows is refused, and the message names the key."""
    plain = {"block_out_channels", "in_channels", "out_channels", "projection_class_embeddings_input_dim"}
    keys = set(inspect.signature(CLASSES[name].__init__).parameters) - {
        "self",
        *IGNORED,
        *plain,
        "use_linear_projection",
    }
    assert len(keys) > 15
    for key in sorted(keys):
        with pytest.raises(ValueError, match=key):
            unet_options({"_class_name": name, key: ["strange"] * 4 if key.endswith("block_types") else "strange"})


@pytest.mark.parametrize("name", mostly_slow(ZOO, ["stable_diffusion_2", "lsun_churches256", "cin256"]))
def test_the_config_that_is_written_gives_the_same_options(name):
    options = options_of(name)
    linear = options.get("head_channels") == 64
    if name in ("lsun_churches256", "inpainting_big"):
        with pytest.raises(ValueError, match="backbone.heads=8 gives heads of"):
            unet_config(options, sample_size=64, linear=linear)
        return
    found = unet_options(unet_config(options, sample_size=64, linear=linear))
    heads = {"heads", "head_channels"}
    assert {key: found.get(key) for key in options.keys() - heads} == {
        key: options[key] for key in options.keys() - heads
    }
    assert heads_of(found) == heads_of(options)


def heads_of(options):
    """Return the heads of each level with attention, and of the middle."""
    widths = [
        options["model_channels"] * options["channel_mult"][level] for level in (*options["attention_levels"], -1)
    ]
    return [options["heads"] if options.get("heads") else width // options["head_channels"] for width in widths]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ZOO) - {"lsun_churches256", "inpainting_big"}))
def test_their_network_of_our_config_has_our_tensors(name):
    options = options_of(name)
    linear = options.get("head_channels") == 64
    config = unet_config(options, sample_size=64, linear=linear)
    with torch.device("meta"):
        theirs = CLASSES[config["_class_name"]].from_config(config).state_dict()
    assert sum(tensor.numel() for tensor in theirs.values()) == ZOO[name].exact
    reading = translation(options, linear=linear).read(theirs)
    assert reading.used == set(theirs)


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"cross_attention_dim": [768] * 4}, "context_width", 768),
        ({"transformer_layers_per_block": [2] * 4}, "depth", 2),
        ({"layers_per_block": [3] * 4}, "blocks", 3),
        ({"attention_head_dim": [8] * 4}, "heads", 8),
        ({"attention_head_dim": [5, 10, 20, 20]}, "head_channels", 64),
        ({"num_attention_heads": 4}, "heads", 4),
        ({"only_cross_attention": [False] * 4, "dual_cross_attention": False, "num_class_embeds": None}, "blocks", 2),
        ({"dropout": 0.1, "upcast_attention": True, "sample_size": 96}, "blocks", 2),
    ],
)
def test_a_config_may_say_one_number_for_each_level(change, key, value):
    assert unet_options({**PUBLISHED["stable_diffusion_1"], **change})[key] == value


def test_heads_of_a_level_without_attention_do_not_count():
    options = {**SMALL, "model_channels": 96, "attention_levels": [1], "heads": None, "head_channels": 64}
    config = unet_config(options, sample_size=8, linear=True)
    assert config["attention_head_dim"] == [1, 3]
    assert unet_options(config)["head_channels"] == 64


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
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type='UNetMidBlock2D'"),
        ({"only_cross_attention": [True, True, True, False]}, r"only_cross_attention=\[True"),
        ({"num_class_embeds": 0}, "num_class_embeds=0"),
        ({"attention_head_dim": [5, 10]}, r"attention_head_dim=\[5, 10\] .* is neither a number nor 4"),
        ({"attention_head_dim": 7}, "attention_head_dim=7 .* does not divide levels"),
        ({"attention_head_dim": None}, "attention_head_dim=None"),
        ({"layers_per_block": [2, 2]}, "layers_per_block=.* has 2 numbers, not one for each level"),
        ({"cross_attention_dim": None}, "cross_attention_dim=None"),
        ({"cross_attention_dim": [768, 768, 1024, 1024]}, "cross_attention_dim=.* differs from level to level"),
        ({"transformer_layers_per_block": [1, 2, 10, 10]}, "transformer_layers_per_block=.* differs"),
        ({"transformer_layers_per_block": [[1, 2], [1], [1], [1]]}, "transformer_layers_per_block=.* is neither"),
        ({"class_embed_type": "projection"}, "needs projection_class_embeddings_input_dim"),
        ({"norm_num_groups": None}, "norm_num_groups=None"),
        ({"_class_name": "UNet3DConditionModel"}, "_class_name=UNet3DConditionModel is none of"),
    ],
)
def test_a_config_that_ours_cannot_be_is_refused_by_its_key(change, message):
    with pytest.raises(ValueError, match=message):
        unet_options({**PUBLISHED["stable_diffusion_1"], **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type='UNetMidBlock2DCrossAttn'"),
        ({"add_attention": False}, "add_attention=False"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"attention_head_dim": 48}, r"attention_head_dim=48 .* does not divide levels of \[448, 896\] channels"),
        ({"attn_norm_num_groups": 16}, "attn_norm_num_groups=16 must be norm_num_groups=32"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups=None .* without a norm"),
        (
            {"downsample_type": "resnet", "upsample_type": "resnet"},
            "by residual blocks at some levels, and by convolutions",
        ),
        ({"downsample_type": "fir"}, "downsample_type='fir' .* is none of conv, resnet"),
        (
            {"down_block_types": ["ResnetDownsampleBlock2D"] * 4, "up_block_types": ["UpBlock2D"] * 4},
            "by residual blocks at some levels, and by convolutions",
        ),
        ({"downsample_padding": 0, "norm_eps": 1e-06}, "downsample_padding=0"),
        ({"norm_eps": 1e-06}, "norm_eps=1e-06 .* here it is 1e-05"),
    ],
)
def test_an_unconditional_config_that_ours_cannot_be_is_refused_by_its_key(change, message):
    with pytest.raises(ValueError, match=message):
        unet_options({**PUBLISHED["celeba256"], **change})


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
