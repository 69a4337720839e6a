"""Models conditioned on text and a mask or a depth map: a scene for them, both ways to sample them, and files of them."""

import torch
from diffusers import StableDiffusionInpaintPipeline
from safetensors.torch import save_file

from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.sampler.ddim import DDIM
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import LeadingSpacing, TrailingSpacing
from tests.interop import checkpoints as made

PROMPTS = ["a red heart", "a blue cat on white"]
SEEDS = [3, 4]
STEPS = 5
SPACING = {"leading": LeadingSpacing(offset=1), "trailing": TrailingSpacing()}

CHANNELS = {"inpainting": 9, "depth": 5}
"""Channels of the U-Net's input."""

FIRST = ("model.diffusion_model.input_blocks.0.0.weight", "denoiser.backbone.conv_in.weight")
"""Names of the weights that read the input: theirs, and ours."""


def scene():
    """Return images in [-1, 1], masks with a hole that no latent's edge cuts evenly, and depth maps of any range."""
    generator = torch.Generator().manual_seed(7)
    image = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 3:9, 5:12] = 1.0
    mask[1, :, 8:, :7] = 1.0
    return {"image": image, "mask": mask, "depth": torch.rand(2, 1, 16, 16, generator=generator) * 3 + 40}


def ours(model, *, spacing="leading", start=None):
    """Sample a model of ours conditioned on a scene; those fields that it does not read change nothing."""
    sampler = DDIM(STEPS, timestep_spacing=SPACING[spacing])
    guidance, fields = ClassifierFreeGuidance(3.0), {"caption": PROMPTS, **scene()}
    return model.sample(fields, seeds=SEEDS, sampler=sampler, guidance=guidance, start=start)


def theirs(pipe):
    """Sample a stock pipeline from the same noise, conditioned on the same scene."""
    pipe.set_progress_bar_config(disable=True)
    fields, noise = scene(), SeededNoise(SEEDS).draw((4, 8, 8))
    image, options = fields["image"] / 2 + 0.5, {"strength": 1.0, "num_inference_steps": STEPS, "guidance_scale": 3.0}
    if isinstance(pipe, StableDiffusionInpaintPipeline):
        mask = fields["mask"]
        found = pipe(
            PROMPTS, image=image, mask_image=mask, latents=noise, height=16, width=16, output_type="np", **options
        )
    else:  # which takes no noise
        pipe.prepare_latents = lambda *_: noise
        found = pipe(PROMPTS, image=image, depth_map=fields["depth"][:, 0], output_type="np", **options)
    return torch.from_numpy(found.images).permute(0, 3, 1, 2) * 2 - 1


def written(folder, name, *, open_clip=False, dtype=torch.float32, more=None, **params):
    """Write a file in the layout of Stable Diffusion 1 or 2, with its yaml; and return it and its tensors."""
    kind = made.open_clip if open_clip else made.clip
    options = {"context_width": 64, "linear": open_clip, "model_channels": 64 if open_clip else 32}
    shapes = made.whole(kind(64, 2, vocabulary=64), in_channels=CHANNELS.get(name, name), **options)
    last = ("resblocks.1.", "text_projection", "logit_scale") if open_clip else ()
    tensors = {
        key: tensor
        for key, tensor in made.tensors_of(shapes, dtype).items()
        if ".loss." not in key and not any(part in key for part in last)
    }
    save_file({**tensors, **(more or {})}, folder / "model.safetensors")
    made.write_yaml(folder / "model.yaml", **({"head_channels": 64} if open_clip else {"heads": 2}), **params)
    made.tokenizer(folder / "tokenizer")
    return folder / "model.safetensors", tensors
