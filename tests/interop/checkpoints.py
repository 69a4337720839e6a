"""Whole checkpoints as CompVis' programs write them, tensor by tensor from the published names and shapes."""

from collections import OrderedDict

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.conditioner.test_conditioner import CAPTIONS
from tests.interop.autoencoder.published import Published, compvis_shapes
from tests.interop.unet import published

TINY_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "blocks": 1,
    "attention_levels": [0, 1],
}
TINY_FIRST_STAGE = Published(4, (1, 2), ch=32, blocks=1)


def clip(width, layers, *, vocabulary, positions=77, prefix="cond_stage_model.transformer.text_model."):
    """Return name -> shape of CLIP's text model as transformers has published it."""
    shapes = {
        "embeddings.token_embedding.weight": (vocabulary, width),
        "embeddings.position_embedding.weight": (positions, width),
    }

    def layer(name, *shape):
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    for index in range(layers):
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            layer(f"encoder.layers.{index}.self_attn.{part}", width, width)
        layer(f"encoder.layers.{index}.layer_norm1", width)
        layer(f"encoder.layers.{index}.mlp.fc1", 4 * width, width)
        layer(f"encoder.layers.{index}.mlp.fc2", width, 4 * width)
        layer(f"encoder.layers.{index}.layer_norm2", width)
    layer("final_layer_norm", width)
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def open_clip(width, layers, *, vocabulary, positions=77, prefix="cond_stage_model.model."):
    """Return name -> shape of OpenCLIP's text tower."""
    shapes = {
        "positional_embedding": (positions, width),
        "text_projection": (width, width),
        "logit_scale": (),
        "token_embedding.weight": (vocabulary, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= {f"{block}.attn.out_proj.weight": (width, width), f"{block}.attn.out_proj.bias": (width,)}
        shapes |= {f"{block}.mlp.c_fc.weight": (4 * width, width), f"{block}.mlp.c_fc.bias": (4 * width,)}
        shapes |= {f"{block}.mlp.c_proj.weight": (width, 4 * width), f"{block}.mlp.c_proj.bias": (width,)}
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def bert(width, depth, *, vocabulary, positions=77, inner=512, prefix="cond_stage_model.transformer."):
    """Return name -> shape of the trained text transformer: x-transformers' encoder, with a language model's head."""
    shapes = {
        "token_emb.weight": (vocabulary, width),
        "pos_emb.emb.weight": (positions, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "to_logits.weight": (vocabulary, width),
        "to_logits.bias": (vocabulary,),
    }
    for index in range(depth):
        attend, feed = f"attn_layers.layers.{2 * index}", f"attn_layers.layers.{2 * index + 1}"
        for norm in (f"{attend}.0", f"{feed}.0"):
            shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
        shapes |= {f"{attend}.1.{part}.weight": (inner, width) for part in ("to_q", "to_k", "to_v")}
        shapes |= {f"{attend}.1.to_out.weight": (width, inner), f"{attend}.1.to_out.bias": (width,)}
        shapes |= {f"{feed}.1.net.0.0.weight": (4 * width, width), f"{feed}.1.net.0.0.bias": (4 * width,)}
        shapes |= {f"{feed}.1.net.2.weight": (width, 4 * width), f"{feed}.1.net.2.bias": (width,)}
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def whole(conditioner, *, unet=None, first_stage=TINY_FIRST_STAGE, **options):
    """Return name -> shape of a model: U-Net, first stage with what its training leaves, and a conditioner."""
    network = published.unet(**{**TINY_UNET, **(unet or {}), **options})
    shapes = {f"model.diffusion_model.{name}": shape for name, shape in network.items()}
    shapes |= {f"first_stage_model.{name}": shape for name, shape in compvis_shapes(first_stage).items()}
    shapes |= {"first_stage_model.loss.logvar": (), "first_stage_model.loss.discriminator.main.0.weight": (64, 3, 4, 4)}
    return {**shapes, **conditioner}


def tensors_of(shapes, dtype=torch.float32):
    """Return random tensors, with which networks compute numbers of moderate size; norms are about 1."""
    generator = torch.Generator().manual_seed(4)
    found = {}
    for name, shape in shapes.items():
        fan_in = max(1, torch.Size(shape[1:]).numel())
        value = torch.randn(shape, generator=generator) * (0.1 if len(shape) < 2 else fan_in**-0.5)
        found[name] = (value + 1 if name.endswith("weight") and len(shape) == 1 else value).to(dtype)
    return found


def bookkeeping(*, start=0.00085, end=0.012, steps=1000):
    """Return the tables of the noise schedule that their programs store."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    products = torch.cumprod(1 - betas, 0)
    tables = {
        "betas": betas,
        "alphas_cumprod": products,
        "sqrt_alphas_cumprod": products.sqrt(),
        "posterior_variance": betas,
    }
    return {name: table.float() for name, table in tables.items()}


def averages(tensors, change=0.25):
    """Return averaged weights of the U-Net, which differ, under the names of their averaging, which have no dots."""
    found = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + change
        for name, tensor in tensors.items()
        if name.startswith("model.diffusion_model.")
    }
    return {
        **found,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(100, dtype=torch.int),
    }


def save(file, tensors, **beside):
    """Write a checkpoint as Lightning did, with other things beside the weights."""
    torch.save({"epoch": 3, "global_step": 470000, "state_dict": OrderedDict(tensors), **beside}, file)
    return file


def write_yaml(file, *, heads=2, head_channels=None, **params):
    """Write the yaml of a model, with what tensors do not tell."""
    unet = {"num_heads": heads} if head_channels is None else {"num_head_channels": head_channels}
    config = {
        "model": {
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.00085,
                "linear_end": 0.0120,
                "timesteps": 1000,
                "image_size": 8,
                "scale_factor": 0.18215,
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
                "first_stage_config": {"params": {"ddconfig": {"ch_mult": [1, 2]}}},
                **params,
            },
        }
    }
    file.write_text(yaml.safe_dump(config))
    return file


def tokenizer(folder):
    """Write a small tokenizer of CLIP's kind and return its folder; it has 64 tokens at most, "!" among them."""
    learned = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["!", "[UNK]", "<start>", "<end>"]
    learned.train_from_iterator(CAPTIONS, trainers.WordLevelTrainer(special_tokens=special, vocab_size=64))
    around = [("<start>", 2), ("<end>", 3)]
    learned.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=around)
    PreTrainedTokenizerFast(
        tokenizer_object=learned, pad_token="<end>", unk_token="[UNK]", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(folder)
    return folder
