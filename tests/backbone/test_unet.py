from typing import NamedTuple

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.config import CONFIGS, compose, resolved
from tests.conftest import scramble
from tests.oracle import unet_weights


class Row(NamedTuple):
    """A network of the zoo: choice of `backbone`, parameters in millions as published and exactly, and what goes in."""

    choice: str
    millions: float
    exact: int
    channels: int
    width: int | None = None
    concat: int = 0


ZOO = {
    "celeba256": Row("unet_celeba256", 274.1, 274_056_163, 3),
    "lsun_churches256": Row("unet_lsun_churches256", 295.0, 294_966_916, 4),
    "cin256": Row("unet_cin256", 395.0, 394_984_196, 4, 512),
    "cin256_v2": Row("unet_cin256_v2", 400.9, 400_920_579, 3, 512),
    "text2img256": Row("unet_text2img256", 403.6, 403_623_939, 3, 640),
    "txt2img_1p4b": Row("unet_1p4b", 872.3, 872_300_484, 4, 1280),
    "layout2img": Row("unet_layout2img", 246.3, 246_277_379, 3, 512),
    "semantic_synthesis": Row("unet_semantic_synthesis", 215.2, 215_229_315, 3, None, 3),
    "bsr_sr": Row("unet_bsr_sr", 113.6, 113_622_563, 3, None, 3),
    "inpainting_big": Row("unet_inpainting_big", 387.2, 387_245_827, 3, None, 4),
    "rdm768": Row("unet_rdm768", 1335.5, 1_335_480_400, 16, 768),
    "stable_diffusion_1": Row("unet_sd1", 859.5, 859_520_964, 4, 768),
    "stable_diffusion_2": Row("unet_sd2", 865.9, 865_910_724, 4, 1024),
    "depth2img": Row("unet_sd2", 865.9, 865_913_604, 4, 1024, 1),
}


def settings(name):
    """Return the options of a network of the zoo, as its file says them."""
    row = ZOO[name]
    wiring = [f"backbone.in_channels={row.channels}", f"backbone.concat_channels={row.concat}"]
    width = "null" if row.width is None else row.width
    chosen = compose("train", [f"backbone={row.choice}", "name=x", *wiring, f"backbone.context_width={width}"])
    chosen.backbone.vector_width = None
    return {name: value for name, value in resolved(chosen.backbone).items() if name != "_target_"}


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_has_the_papers_parameter_count(name):
    with torch.device("meta"):
        network = UNet(**settings(name))
    assert count(network) == ZOO[name].exact
    assert ZOO[name].exact / 1e6 == pytest.approx(ZOO[name].millions, abs=0.05)


def test_every_network_of_the_zoo_is_counted():
    chosen = {row.choice for row in ZOO.values()}
    assert chosen == {path.stem for path in (CONFIGS / "backbone").glob("*.yaml")} - {"unet", "unet_icons"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_diffusers_counts_the_same(name):
    """The same network of theirs, built from the same options, has as many parameters; heads do not count."""
    options = settings(name)
    levels = len(options["channel_mult"])
    attends = [index in options["attention_levels"] for index in range(levels)]
    resamples = "Resnet{}sampleBlock2D" if options.get("residual_resampling") else "{}Block2D"
    cross = options["context_width"] is not None
    prefix = "CrossAttn" if cross else "Attn"
    common = {
        "in_channels": options["in_channels"] + options["concat_channels"],
        "out_channels": options["out_channels"],
        "block_out_channels": [options["model_channels"] * factor for factor in options["channel_mult"]],
        "layers_per_block": 2,
        "down_block_types": [f"{prefix}DownBlock2D" if yes else resamples.format("Down") for yes in attends],
        "up_block_types": [f"{prefix}UpBlock2D" if yes else resamples.format("Up") for yes in attends[::-1]],
        "resnet_time_scale_shift": "scale_shift" if options.get("scale_shift") else "default",
    }
    if common["down_block_types"][-1].startswith("Resnet"):
        common["down_block_types"][-1] = "DownBlock2D"  # it changes no resolution
    with torch.device("meta"):
        if cross:
            depth = options.get("depth", 1)
            special = {"cross_attention_dim": options["context_width"], "transformer_layers_per_block": depth}
            theirs = UNet2DConditionModel(**common, attention_head_dim=8, **special)
        else:
            kind = "resnet" if options.get("residual_resampling") else "conv"
            special = {"downsample_type": kind, "upsample_type": kind, "attn_norm_num_groups": 32}
            theirs = UNet2DModel(**common, attention_head_dim=8, **special)
    assert count(theirs) == ZOO[name].exact


@pytest.mark.parametrize(
    ("scale_shift", "depth", "length", "linear"),
    [
        (False, 2, 7, True),
        (True, 2, 7, True),
        pytest.param(False, 3, 7, False, id="layout2img"),
        pytest.param(False, 1, 1, False, id="a-class-as-one-token"),
        pytest.param(False, 1, 7, True, id="stable-diffusion-2"),
    ],
)
def test_agrees_with_diffusers_given_the_same_weights(scale_shift, depth, length, linear):
    """Also where their projections around the transformer blocks are 1 x 1 convolutions (`linear` is false)."""
    ours = scramble(
        UNet(
            4,
            model_channels=32,
            channel_mult=(1, 2, 4),
            attention_levels=(0, 1),
            heads=4,
            context_width=24,
            depth=depth,
            scale_shift=scale_shift,
        )
    )
    theirs = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 128),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=24,
        transformer_layers_per_block=depth,
        use_linear_projection=linear,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )
    theirs.load_state_dict(unet_weights(ours.state_dict(), cross=True, convolutions=not linear))
    x, tokens = torch.randn(3, 4, 16, 16), torch.randn(3, length, 24)
    mask = None if length == 1 else torch.arange(length)[None] < torch.tensor([length, 4, 1])[:, None]
    steps = torch.tensor([0, 417, 999])
    with torch.no_grad():
        expected = theirs(x, steps, tokens, encoder_attention_mask=mask).sample
        got = ours(x, (steps + 1) / 1000, Condition(tokens=tokens, mask=mask))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_heads_by_their_channels_agree_with_diffusers():
    """As in Stable Diffusion 2: 64 channels a head there, so wider levels have more heads."""
    ours = scramble(
        UNet(
            4,
            model_channels=32,
            channel_mult=(1, 2),
            attention_levels=(0, 1),
            head_channels=16,
            context_width=24,
            blocks=1,
        )
    )
    theirs = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        cross_attention_dim=24,
        use_linear_projection=True,
    )
    theirs.load_state_dict(unet_weights(ours.state_dict(), cross=True))
    x, tokens, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 24), torch.tensor([10, 700])
    with torch.no_grad():
        got, expected = ours(x, (steps + 1) / 1000, Condition(tokens=tokens)), theirs(x, steps, tokens).sample
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_residual_resampling_agrees_with_diffusers():
    """As in the paper's model of churches: norms scaled and shifted, the resolution changed inside residual blocks."""
    ours = scramble(
        UNet(
            3,
            model_channels=32,
            channel_mult=(1, 2, 2),
            attention_levels=(0, 1),
            heads=4,
            scale_shift=True,
            residual_resampling=True,
        )
    )
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=8,
        attn_norm_num_groups=32,
        norm_eps=1e-5,
        flip_sin_to_cos=True,
        freq_shift=0,
    )
    for level in (*theirs.down_blocks, theirs.mid_block, *theirs.up_blocks):
        for attention in getattr(level, "attentions", ()):
            attention.heads = 4
    theirs.load_state_dict(unet_weights(ours.state_dict(), cross=False))
    x, steps = torch.randn(2, 3, 16, 16), torch.tensor([3, 800])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, (steps + 1) / 1000, Condition()), theirs(x, steps).sample, atol=1e-4, rtol=0)


def test_unconditional_agrees_with_diffusers():
    ours = scramble(UNet(3, model_channels=32, channel_mult=(1, 2), attention_levels=(1,), head_channels=16))
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_eps=1e-5,
        downsample_padding=1,
        flip_sin_to_cos=True,
        freq_shift=0,
    )
    theirs.load_state_dict(unet_weights(ours.state_dict(), cross=False))
    x, steps = torch.randn(2, 3, 16, 16), torch.tensor([3, 800])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, (steps + 1) / 1000, Condition()), theirs(x, steps).sample, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["txt2img_1p4b", "lsun_churches256", "semantic_synthesis"])
def test_life_cycle(name):
    options = {**settings(name), "model_channels": 32}
    network = UNet(**options)
    tokens = torch.randn(2, 5, options["context_width"]) if options["context_width"] else None
    concat = torch.randn(2, options["concat_channels"], 16, 16) if options["concat_channels"] else None
    condition = Condition(tokens=tokens, concat=concat)
    x, t = torch.randn(2, options["in_channels"], 16, 16), torch.tensor([0.1, 0.9])
    assert network(x, t, condition).abs().max() == 0, "the last layer starts at zero"
    scramble(network)(x, t, condition).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in network.parameters())
    again = UNet(**options)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(x, t, condition), network(x, t, condition), rtol=0, atol=0)


def test_pooled_tokens_tell_every_block_what_the_caption_says():
    options = {"model_channels": 32, "channel_mult": (1,), "attention_levels": (), "heads": 4, "context_width": 8}
    plain, pooled = UNet(3, **options), UNet(3, **options, pool_tokens=True)
    assert set(pooled.state_dict()) - set(plain.state_dict()) == {
        f"pool.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")
    }
    scramble(pooled)
    x, t, tokens = torch.randn(2, 3, 8, 8), torch.ones(2), torch.randn(2, 5, 8)
    mask = torch.tensor([[True, True, False, False, False]] * 2)
    short = pooled(x, t, Condition(tokens=tokens[:, :2]))
    torch.testing.assert_close(pooled(x, t, Condition(tokens=tokens, mask=mask)), short)
    with pytest.raises(ValueError, match="pool_tokens needs tokens"):
        UNet(3, model_channels=32, heads=4, pool_tokens=True)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"attention_levels \[3\] do not exist.*0 to 2"):
        UNet(3, model_channels=32, channel_mult=(1, 2, 4), attention_levels=(3,), heads=4)
    with pytest.raises(ValueError, match="heads or head_channels, one"):
        UNet(3, model_channels=32)
    with pytest.raises(ValueError, match="head_channels=64 is more than the 32 channels of a level"):
        UNet(3, model_channels=32, channel_mult=(1, 2), attention_levels=(0,), head_channels=64)
    with pytest.raises(ValueError, match="multiples of 32"):
        UNet(3, model_channels=40, heads=4)
    network = UNet(3, model_channels=32, channel_mult=(1,), attention_levels=(), heads=4, context_width=8)
    with pytest.raises(ValueError, match="backbone.context_width is 8, but the conditioner gives None"):
        network(torch.randn(1, 3, 8, 8), torch.ones(1), Condition())
