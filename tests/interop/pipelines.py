"""Tiny pipelines of diffusers with random weights, made by its own classes."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from tests.interop import checkpoints

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


def stable_diffusion(folder, *, prediction="epsilon", linear=False, act="quick_gelu"):
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
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=[2, 4] if linear else 2,
        use_linear_projection=linear,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    pipe = StableDiffusionPipeline(
        vae=telling(autoencoder(), by=1.5),
        text_encoder=telling(CLIPTextModel(text), by=8.0),
        tokenizer=tokenizer,
        unet=telling(unet, by=1.0),
        scheduler=DDIMScheduler(**SCHEDULER, prediction_type=prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
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
