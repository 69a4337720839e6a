"""All weights that are loaded from elsewhere, each with its address, which is written nowhere else in the code.

Sizes are those of the weights: four bytes a parameter. Configs repeat the names of models on the hub, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ldm.pretrained.published import HubModel, PublishedWeights, Use, WeightFile

VGG16_WEIGHTS = WeightFile(
    name="lpips",
    title="VGG16 of torchvision, for LPIPS",
    megabytes=553,
    licence="BSD-3-Clause",
    uses=(
        Use("train", "perceptual=lpips", "perceptual.vgg16"),
        Use("evaluate", "perceptual=lpips", "perceptual.vgg16"),
    ),
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
)

INCEPTION_WEIGHTS = WeightFile(
    name="inception",
    title="Inception v3 of torch-fidelity, for FID, sFID, KID, Inception score, precision and recall",
    megabytes=96,
    licence="Apache-2.0",
    uses=tuple(
        Use(program, f"metric={name}", f"metric.{name}.extractor.weights")
        for name in ("fid", "sfid", "kid", "inception_score", "precision_recall")
        for program in ("train", "evaluate")
    ),
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)

MODELS = (
    HubModel(
        name="clip_l",
        title="CLIP ViT-L/14, text and images",
        megabytes=1711,
        licence="MIT",
        uses=(
            Use("train", "conditioner=clip_l", "conditioner.name"),
            Use("train", "conditioner=huggingface", "conditioner.name"),
            Use("train", "conditioner=image", "conditioner.name"),
            Use("train", "metric=clip_score", "metric.clip_score.name"),
            Use("evaluate", "metric=clip_score", "metric.clip_score.name"),
            Use("neighbors", "encoder=clip", "encoder.name"),
        ),
        repository="openai/clip-vit-large-patch14",
        readers=("tokenizer_config.json", "preprocessor_config.json"),
    ),
    HubModel(
        name="clip_l_336",
        title="CLIP ViT-L/14 of 336 pixels, for CMMD",
        megabytes=1712,
        licence="MIT",
        uses=(
            Use("train", "metric=cmmd", "metric.cmmd.extractor.name"),
            Use("evaluate", "metric=cmmd", "metric.cmmd.extractor.name"),
        ),
        repository="openai/clip-vit-large-patch14-336",
        readers=("preprocessor_config.json",),
    ),
    HubModel(
        name="clip_b32",
        title="CLIP ViT-B/32, for guidance",
        megabytes=605,
        licence="MIT",
        uses=(Use("sample", "guidance=clip", "guidance.score.name"),),
        repository="openai/clip-vit-base-patch32",
        readers=("tokenizer_config.json", "preprocessor_config.json"),
    ),
    HubModel(
        name="openclip_h",
        title="OpenCLIP ViT-H/14, text and images",
        megabytes=3944,
        licence="MIT",
        uses=(
            Use("train", "conditioner=openclip_h", "conditioner.name"),
            Use("evaluate", "protocol=mlperf_sd", "metric.clip_score.name"),
        ),
        repository="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        readers=("tokenizer_config.json", "preprocessor_config.json"),
    ),
    HubModel(
        name="flan_t5_large",
        title="FLAN-T5 large, text",
        megabytes=3133,
        licence="Apache-2.0",
        uses=(Use("train", "conditioner=flan_t5_large", "conditioner.name"),),
        repository="google/flan-t5-large",
        readers=("tokenizer_config.json",),
    ),
    HubModel(
        name="dinov2",
        title="DINOv2 ViT-B/14, images",
        megabytes=346,
        licence="Apache-2.0",
        uses=(Use("train", "alignment=repa", "alignment.encoder.name"),),
        repository="facebook/dinov2-base",
        readers=("preprocessor_config.json",),
    ),
    HubModel(
        name="dinov2_l",
        title="DINOv2 ViT-L/14, images",
        megabytes=1217,
        licence="Apache-2.0",
        uses=(
            Use("train", "latent_alignment=va_vae", "latent_alignment.encoder.name"),
            Use("train", "metric=fd_dinov2", "metric.frechet_dinov2.extractor.name"),
            Use("evaluate", "metric=fd_dinov2", "metric.frechet_dinov2.extractor.name"),
        ),
        repository="facebook/dinov2-large",
        readers=("preprocessor_config.json",),
    ),
    HubModel(
        name="depth",
        title="DPT-Hybrid (MiDaS), depth of images",
        megabytes=490,
        licence="Apache-2.0",
        uses=(
            Use("train", "conditioner=depth", "conditioner.name"),
            Use("train", "conditioner=text_and_depth", "conditioner.parts.depth.name"),
        ),
        repository="Intel/dpt-hybrid-midas",
        readers=("preprocessor_config.json",),
    ),
)

CATALOGUE: Mapping[str, PublishedWeights] = {
    one.name: one for one in (VGG16_WEIGHTS, INCEPTION_WEIGHTS, *MODELS)
}  # fmt: skip
"""All of them, by name."""


def missing_model(
    kind: str, name: str, error: Exception, *, files: str = "config and safetensors weights", advice: str
) -> FileNotFoundError:
    """Return the error for a model that can be loaded neither from this machine nor from the hub.

    Args:
        kind: The kind of model, like "text encoder".
        name: Name of the model on the hub, or a local folder.
        error: Why it cannot be loaded.
        files: The files in a local folder of such a model.
        advice: Advice besides fetching it with `ldm.fetch`.
    """
    fetched = [model.name for model in MODELS if model.repository == name]
    hint = "".join(f"with internet, python -m ldm.fetch {one} brings it; " for one in fetched)
    return FileNotFoundError(
        f"no {kind} {name!r}: it is neither a folder on this machine with {files}, nor a model that the hub gives now "
        f"({str(error).splitlines()[0]}); {hint}{advice}"
    )
