"""Tiny pipelines of diffusers with random weights, made by its own classes."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
    PreTrainedTokenizerFast,
)

from tests.interop import checkpoints

IN_CHANNELS = {StableDiffusionPipeline: 4, StableDiffusionInpaintPipeline: 9, StableDiffusionDepth2ImgPipeline: 5}
"""Channels of the U-Net's input."""

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
}


def telling(network, *, by=2.0):
    """Make the random weights of a network larger, so that its output depends on its input."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.mul_(6.0 if any(part in name for part in ("to_q", "to_k")) else by)
    return network.eval()


def without_spread(vae):
    """Make an autoencoder encode the same each time: its pipelines draw from the posterior, of which ours take the mean."""
    with torch.no_grad():
        vae.quant_conv.weight[4:] = 0.0
        vae.quant_conv.bias[4:] = -100.0
    return vae


def depth_estimator():
    """Return a small network that estimates depth; nothing here asks it."""
    neck = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 1}
    return DPTForDepthEstimation(DPTConfig(**sizes, **neck, image_size=32, patch_size=16))


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
        scaling_factor=0.3,
    )


def stable_diffusion(folder, *, prediction="epsilon", linear=False, act="quick_gelu", kind=StableDiffusionPipeline):
    """Write a pipeline of Stable Diffusion in small, and return it."""
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoints.tokenizer(folder / "made"), model_max_length=20)
    text = CLIPTextConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        max_position_embeddings=20,
        hidden_act=act,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=3,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=IN_CHANNELS[kind],
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=[2, 4] if linear else 2,
        use_linear_projection=linear,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    if kind is StableDiffusionDepth2ImgPipeline:
        more = {"depth_estimator": depth_estimator(), "feature_extractor": DPTImageProcessor(size=32)}
    else:
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = kind(
        vae=without_spread(telling(autoencoder(), by=1.5)),
        text_encoder=telling(CLIPTextModel(text), by=8.0),
        tokenizer=tokenizer,
        unet=telling(unet, by=1.0),
        scheduler=DDIMScheduler(**SCHEDULER, prediction_type=prediction),
        **more,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder / "pipeline")
    return pipe


def unconditional(folder):
    """Write a pipeline of an unconditional model on a codebook, and return it."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_head_dim=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    vq = VQModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=3,
        num_vq_embeddings=64,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
        scaling_factor=1.0,
    )
    scheduler = DDIMScheduler(**{**SCHEDULER, "beta_start": 0.0015, "beta_end": 0.0195})
    pipe = LDMPipeline(telling(vq), telling(unet), scheduler)
    pipe.save_pretrained(folder / "pipeline")
    return pipe
