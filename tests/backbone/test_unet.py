import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from tests.conftest import scramble
from tests.oracle import unet_weights

ZOO = {
    "celeba256": (
        274.1,
        {
            "in_channels": 3,
            "model_channels": 224,
            "channel_mult": (1, 2, 3, 4),
            "attention_levels": (1, 2, 3),
            "head_channels": 32,
        },
    ),
    "lsun_churches256": (
        295.0,
        {
            "in_channels": 4,
            "model_channels": 192,
            "channel_mult": (1, 2, 2, 4, 4),
            "attention_levels": (0, 1, 2, 3),
            "heads": 8,
            "scale_shift": True,
            "residual_resampling": True,
        },
    ),
    "cin256": (
        395.0,
        {
            "in_channels": 4,
            "model_channels": 256,
            "channel_mult": (1, 2, 4),
            "attention_levels": (0, 1, 2),
            "head_channels": 32,
            "context_width": 512,
        },
    ),
    "cin256-v2": (
        400.9,
        {
            "in_channels": 3,
            "model_channels": 192,
            "channel_mult": (1, 2, 3, 5),
            "attention_levels": (1, 2, 3),
            "heads": 1,
            "context_width": 512,
        },
    ),
    "text2img256": (
        403.6,
        {
            "in_channels": 3,
            "model_channels": 192,
            "channel_mult": (1, 2, 3, 5),
            "attention_levels": (1, 2, 3),
            "head_channels": 32,
            "context_width": 640,
        },
    ),
    "txt2img-1p4B": (
        872.3,
        {
            "in_channels": 4,
            "model_channels": 320,
            "channel_mult": (1, 2, 4, 4),
            "attention_levels": (0, 1, 2),
            "heads": 8,
            "context_width": 1280,
        },
    ),
    "layout2img": (
        246.3,
        {
            "in_channels": 3,
            "model_channels": 128,
            "channel_mult": (1, 2, 3, 4),
            "attention_levels": (1, 2, 3),
            "head_channels": 32,
            "depth": 3,
            "context_width": 512,
        },
    ),
    "semantic": (
        215.2,
        {
            "in_channels": 3,
            "concat_channels": 3,
            "model_channels": 128,
            "channel_mult": (1, 4, 8),
            "attention_levels": (),
            "heads": 8,
        },
    ),
    "bsr_sr": (
        113.6,
        {
            "in_channels": 3,
            "concat_channels": 3,
            "model_channels": 160,
            "channel_mult": (1, 2, 2, 4),
            "attention_levels": (3,),
            "head_channels": 32,
        },
    ),
    "inpainting_big": (
        387.2,
        {
            "in_channels": 3,
            "concat_channels": 4,
            "model_channels": 256,
            "channel_mult": (1, 2, 3, 4),
            "attention_levels": (1, 2, 3),
            "heads": 8,
            "residual_resampling": True,
        },
    ),
    "rdm": (
        1335.5,
        {
            "in_channels": 16,
            "model_channels": 448,
            "channel_mult": (1, 2, 3, 4),
            "attention_levels": (0, 1, 2),
            "head_channels": 32,
            "context_width": 768,
        },
    ),
}


@pytest.mark.parametrize("name", ZOO)
def test_has_the_papers_parameter_count(name):
    millions, settings = ZOO[name]
    with torch.device("meta"):
        network = UNet(**settings)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_agrees_with_diffusers_given_the_same_weights(scale_shift):
    ours = scramble(
        UNet(
            4,
            model_channels=32,
            channel_mult=(1, 2, 4),
            attention_levels=(0, 1),
            heads=4,
            context_width=24,
            depth=2,
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
        transformer_layers_per_block=2,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )
    theirs.load_state_dict(unet_weights(ours.state_dict(), cross=True))
    x, tokens = torch.randn(3, 4, 16, 16), torch.randn(3, 7, 24)
    mask = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    steps = torch.tensor([0, 417, 999])
    with torch.no_grad():
        expected = theirs(x, steps, tokens, encoder_attention_mask=mask).sample
        got = ours(x, (steps + 1) / 1000, Condition(tokens=tokens, mask=mask))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


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


@pytest.mark.parametrize("name", ["txt2img-1p4B", "lsun_churches256", "semantic"])
def test_life_cycle(name):
    settings = {**ZOO[name][1], "model_channels": 32}
    network = UNet(**settings)
    tokens = torch.randn(2, 5, settings["context_width"]) if settings.get("context_width") else None
    concat = torch.randn(2, settings["concat_channels"], 16, 16) if settings.get("concat_channels") else None
    condition = Condition(tokens=tokens, concat=concat)
    x, t = torch.randn(2, settings["in_channels"], 16, 16), torch.tensor([0.1, 0.9])
    assert network(x, t, condition).abs().max() == 0, "the last layer starts at zero"
    scramble(network)(x, t, condition).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in network.parameters())
    again = UNet(**settings)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(x, t, condition), network(x, t, condition), rtol=0, atol=0)


def test_pooled_tokens_tell_every_block_what_the_caption_says():
    settings = {"model_channels": 32, "channel_mult": (1,), "attention_levels": (), "heads": 4, "context_width": 8}
    plain, pooled = UNet(3, **settings), UNet(3, **settings, pool_tokens=True)
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
    with pytest.raises(ValueError, match="multiples of 32"):
        UNet(3, model_channels=40, heads=4)
    network = UNet(3, model_channels=32, channel_mult=(1,), attention_levels=(), heads=4, context_width=8)
    with pytest.raises(ValueError, match="backbone.context_width is 8, but the conditioner gives None"):
        network(torch.randn(1, 3, 8, 8), torch.ones(1), Condition())
