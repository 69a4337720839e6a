"""Stable Diffusion's models for inpainting and depth: what stands beside the latent has its place, in all layouts, both ways."""

import pytest
import torch
import yaml
from diffusers import (
    DiffusionPipeline,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file

from ldm import checkpoint
from ldm.generation.start import ImageStart
from ldm.interop.conditioner import beside
from ldm.interop.conventions import Conventions, model_node
from ldm.interop.export.compvis import CompVisFormat
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.reading import read_foreign
from ldm.interop.request import ReadRequest
from ldm.interop.unet import compvis as compvis_unet
from ldm.interop.unet.diffusers_config import unet_config
from ldm.interop.unet.names import empty_unet
from ldm.sampler.noise import SeededNoise
from tests.cases import mostly_slow
from tests.interop import checkpoints as made
from tests.interop import pipelines
from tests.interop.scenes import CHANNELS, FIRST, PROMPTS, SEEDS, STEPS, ours, scene, theirs, written
from tests.interop.test_export import model_of
from tests.interop.unet.test_compvis import options_of, published_of

SD1, SD2 = {}, {"linear": True, "act": "gelu"}

INPAINTING, DEPTH = StableDiffusionInpaintPipeline, StableDiffusionDepth2ImgPipeline

ORDER = {"inpainting": [0, 1, 2, 3, 5, 6, 7, 8, 4], "depth": [0, 1, 2, 3, 4]}
"""The channels of the input of our U-Net, by their places in that of theirs: the mask is theirs' fifth, and our last."""


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (INPAINTING, SD1),
        pytest.param(INPAINTING, SD2, marks=pytest.mark.slow),
        (DEPTH, SD2),
        pytest.param(DEPTH, SD1, marks=pytest.mark.slow),
    ],
    ids=["inpainting-1", "inpainting-2", "depth-2", "depth-1"],
)
def test_stock_pipelines_make_the_same_images_before_and_after(tmp_path, kind, options):
    """Of a folder that is read, and of the one that is exported of it, with a latent of our own shift and scale."""
    pipe = pipelines.stable_diffusion(tmp_path, kind=kind, **options)
    model = checkpoint.load(tmp_path / "pipeline")
    images, expected = ours(model), theirs(pipe)
    assert expected.std() > 0.05
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)
    found = read_foreign(tmp_path / "pipeline")
    found.weights["autoencoder.shift"] = torch.tensor([0.1, -0.2, 0.3, 0.0])
    found.weights["autoencoder.scale"] = torch.tensor([0.3, 0.5, 0.25, 0.4])
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "out"), name="mine")
    absent = {"depth_estimator": None, "feature_extractor": None} if kind is DEPTH else {}
    again = DiffusionPipeline.from_pretrained(tmp_path / "out", **absent)
    assert type(again) is kind
    expected = theirs(again)
    assert expected.std() > 0.05
    torch.testing.assert_close(
        ours(model_of(found.config, found.weights), spacing="trailing"), expected, atol=1e-3, rtol=0
    )


def test_the_stock_pipeline_changes_an_image_as_ours_does(tmp_path):
    """Its usual use of depth: what is begun with shows the same scene as the depth map."""
    pipe = pipelines.stable_diffusion(tmp_path, kind=DEPTH, **SD2)
    model = checkpoint.load(tmp_path / "pipeline")

    def noisy(image, step, *_):
        latents = pipe.vae.encode(image).latent_dist.mode() * pipe.vae.config.scaling_factor
        return pipe.scheduler.add_noise(latents, SeededNoise(SEEDS).draw((4, 8, 8)), step)

    pipe.prepare_latents = noisy
    image, depth = scene()["image"], scene()["depth"][:, 0]
    options = {"strength": 0.6, "num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": "np"}
    expected = torch.from_numpy(pipe(PROMPTS, image=image / 2 + 0.5, depth_map=depth, **options).images)
    images = ours(model, start=ImageStart(image, strength=0.6))
    torch.testing.assert_close(images, expected.permute(0, 3, 1, 2) * 2 - 1, atol=1e-3, rtol=0)
    assert (images - ours(model)).abs().max() > 0.1


@pytest.mark.parametrize("open_clip", mostly_slow([False, True], [False]), ids=["1", "2"])
@pytest.mark.parametrize("name", CHANNELS)
def test_the_channels_of_the_input_change_their_places_and_nothing_else_does(tmp_path, name, open_clip):
    """Also by way of diffusers, and there and back."""
    file, tensors = written(tmp_path, name, open_clip=open_clip)
    found = read_foreign(file)
    theirs, ours = FIRST
    assert torch.equal(found.weights[ours], tensors[theirs][:, ORDER[name]])
    assert found.config["conditioner"]["parts"]["text"]["drop_rate"] == 0.1
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "diffusers"), name="mine")
    unet = load_file(tmp_path / "diffusers" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(unet["conv_in.weight"], tensors[theirs])
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "compvis"), name="mine")
    made.tokenizer(tmp_path / "compvis" / "tokenizer")
    for place in ("diffusers", "compvis/model.safetensors"):
        again = read_foreign(tmp_path / place)
        assert again.config["conditioner"]["parts"].keys() == {"text", name}
        assert again.weights.keys() == found.weights.keys()
        for key, tensor in found.weights.items():
            assert key.endswith("_extra_state") or torch.equal(again.weights[key], tensor), key
        torch.testing.assert_close(ours_of(again), ours_of(found), atol=1e-4 if place == "diffusers" else 0.0, rtol=0)


def ours_of(found):
    return ours(model_of(found.config, found.weights))


@pytest.mark.parametrize("dtype", mostly_slow([torch.float32, torch.float16], [torch.float16]))
@pytest.mark.parametrize("open_clip", [False, True], ids=["1", "2"])
@pytest.mark.parametrize("name", CHANNELS)
def test_exporting_what_was_read_gives_the_same_bytes(tmp_path, name, open_clip, dtype):
    file, _ = written(tmp_path, name, open_clip=open_clip, dtype=dtype)
    found = read_foreign(file)
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("name", "target", "keys", "more"),
    [
        ("inpainting", "LatentInpaintDiffusion", ["mask", "masked_image"], set()),
        ("depth", "LatentDepth2ImageDiffusion", ["midas_in"], {"depth_stage_config"}),
    ],
)
def test_the_yaml_builds_the_model_as_theirs_do(tmp_path, name, target, keys, more):
    file, _ = written(tmp_path, name)
    found = read_foreign(file)
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")
    written_model = yaml.safe_load((tmp_path / "out" / "model.yaml").read_text())["model"]
    params = written_model["params"]
    assert written_model["target"] == f"ldm.models.diffusion.ddpm.{target}"
    assert (params["conditioning_key"], params["concat_keys"], params["cond_stage_key"]) == ("hybrid", keys, "txt")
    assert params["finetune_keys"] is None
    assert params["unet_config"]["params"]["in_channels"] == CHANNELS[name]
    plain = read_foreign(written(tmp_path, 4)[0])
    export(plain.config, plain.weights, CompVisFormat(), str(tmp_path / "plain"), name="mine")
    without = yaml.safe_load((tmp_path / "plain" / "model.yaml").read_text())["model"]["params"]
    assert params.keys() - without.keys() == {"concat_keys", "finetune_keys"} | more


def test_the_card_says_how_it_is_run(tmp_path):
    """By a pipeline, or, where none does since padding is masked, by its parts, whose channels it names in their order."""
    found = read_foreign(written(tmp_path, "inpainting")[0])
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "stock"), name="mine")
    card = (tmp_path / "stock" / "README.md").read_text()
    assert "image=image, mask_image=mask" in card
    assert "| condition | a caption (frozen text encoder) and a masked image with its mask |" in card
    found.config["conditioner"]["parts"]["text"]["mask_padding"] = True
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "parts"), name="mine")
    assert not (tmp_path / "parts" / "model_index.json").exists()
    card = (tmp_path / "parts" / "README.md").read_text()
    assert "further channels behind those of the latents, in this order: mask, masked_image." in card
    with pytest.raises(ValueError, match="mask_padding=true has no place in this layout"):
        export(found.config, found.weights, CompVisFormat(), str(tmp_path / "one"), name="mine")


def test_the_network_that_estimates_depth_is_left_out_by_name(tmp_path):
    more = {"depth_model.model.pretrained.model.cls_token": torch.zeros(1, 1, 8)}
    file, _ = written(tmp_path, "depth", more=more)
    reasons = read_foreign(file).dropped
    assert reasons == dict.fromkeys(more, "the network that estimates depth; depth maps are given here")
    pipelines.stable_diffusion(tmp_path, kind=DEPTH)
    assert read_foreign(tmp_path / "pipeline").dropped == {
        "depth_estimator/": "the network that estimates depth; depth maps are given here",
        "feature_extractor/": "another network, which does not make the image",
    }


def test_the_papers_own_order_stays(tmp_path):
    """Its model for inpainting has no text, and has the mask behind the latent of the masked image, as ours have."""
    shapes = made.whole({}, in_channels=8)
    tensors = made.tensors_of(shapes)
    file = made.save(tmp_path / "model.ckpt", tensors)
    found = read_foreign(file, ReadRequest(experiment="inpainting_big", heads=2, scale=1.0))
    assert found.config["conditioner"]["_target_"].endswith("InpaintingConditioner")
    assert found.config["conditioner"]["black_hole"], "as in the authors' script"
    assert torch.equal(found.weights[FIRST[1]], tensors[FIRST[0]])


def test_a_black_hole_is_of_no_pipeline_of_text():
    node = {
        "parts": {
            "text": {"_target_": f"a.{beside.TEXT_CLASSES[0]}"},
            "inpainting": {"_target_": beside.INPAINTING.target},
        }
    }
    assert beside.text_and_map(node) == ("text", beside.INPAINTING)
    node["parts"]["inpainting"]["black_hole"] = True
    assert beside.text_and_map(node) is None


def test_averages_in_a_ckpt_change_their_places_too(tmp_path):
    file, tensors = written(tmp_path, "inpainting")
    whole = {**tensors, **made.averages(tensors), **made.bookkeeping()}
    found = read_foreign(made.save(file.with_suffix(".ckpt"), whole))
    assert torch.equal(found.weights[FIRST[1]], (tensors[FIRST[0]] + 0.25)[:, ORDER["inpainting"]])


def test_another_experiment_may_give_the_conventions(tmp_path):
    file, _ = written(tmp_path, "depth", open_clip=True)
    plain, asked = read_foreign(file), read_foreign(file, ReadRequest(experiment="depth2img"))
    assert (plain.experiment, asked.experiment) == ("stable_diffusion_2", "depth2img")
    assert plain.config["conditioner"] == asked.config["conditioner"]


def test_an_order_that_is_not_known_is_refused(tmp_path):
    file, _ = written(tmp_path, "inpainting", concat_keys=["masked_image", "mask"])
    with pytest.raises(ValueError, match=r"concat_keys \['masked_image', 'mask'\] are not supported; .* in this order"):
        read_foreign(file)


def test_a_stable_diffusion_2_with_a_map_predicts_noise_where_nothing_says_it(tmp_path):
    """The published ones do; of one without a map, velocity is as likely, so that it is asked for."""
    for name in CHANNELS:
        file, _ = written(tmp_path, name, open_clip=True)
        file.with_suffix(".yaml").unlink()
        found = read_foreign(file, ReadRequest(scale=1.0))
        assert found.config["denoiser"]["prediction"]["_target_"].endswith("NoisePrediction")
        assert found.config["size"] == 512
    file, _ = written(tmp_path, 4, open_clip=True)
    file.with_suffix(".yaml").unlink()
    with pytest.raises(ValueError, match="give prediction=velocity"):
        read_foreign(file, ReadRequest(scale=1.0))


@pytest.mark.parametrize(
    ("experiment", "channels", "count"),
    [
        pytest.param("stable_diffusion_1", 9, 859_535_364, marks=pytest.mark.slow),
        pytest.param("stable_diffusion_2", 9, 865_925_124, marks=pytest.mark.slow),
        ("stable_diffusion_2", 5, 865_913_604),
    ],
)
def test_the_networks_of_full_size(experiment, channels, count):
    """Ours, theirs in diffusers, and the published tensors have the same numbers; the conventions are found by their shapes."""
    linear = experiment.endswith("2")
    options = {**options_of(experiment), "in_channels": channels}
    shapes = {name: torch.Size(shape) for name, shape in published_of(options, linear=linear).items()}
    assert len(shapes) == 686
    assert sum(shape.numel() for shape in shapes.values()) == count
    assert sum(weight.numel() for weight in empty_unet(options).parameters()) == count
    with torch.device("meta"):
        other = UNet2DConditionModel.from_config(unet_config(options, sample_size=64, linear=linear))
    assert sum(weight.numel() for weight in other.parameters()) == count
    changed = {**compvis_unet.options(shapes), "in_channels": 4, "concat_channels": channels - 4}
    node, name = model_node("open_clip" if linear else "clip", changed, Conventions())
    assert name == experiment
    backbone = node["denoiser"]["backbone"]
    assert (backbone["concat_channels"], backbone.get("heads"), backbone.get("head_channels")) == (
        channels - 4, None if linear else 8, 64 if linear else None,
    )  # fmt: skip
