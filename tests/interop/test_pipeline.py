"""Pipelines of diffusers become models of ours, which make the same images of the same noise and captions."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ldm import checkpoint
from ldm.config import compose
from ldm.evaluate.program import evaluate
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.interop.reading import read_foreign
from ldm.sampler.ddim import DDIM
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import LeadingSpacing
from tests.interop import pipelines

PROMPTS = ["a red heart", "a blue cat on white"]
STEPS = 5


def ours(path, *, guided=True):
    """Sample a model of ours as the pipelines are sampled."""
    model = checkpoint.load(path)
    guidance = {"guidance": ClassifierFreeGuidance(3.0)} if guided else {}
    sampler = DDIM(STEPS, timestep_spacing=LeadingSpacing(offset=1))
    return model, model.sample(prompts=PROMPTS, seeds=[3, 4], sampler=sampler, **guidance)


@pytest.mark.parametrize(
    "options",
    [{}, {"prediction": "v_prediction", "linear": True, "act": "gelu"}],
    ids=["stable-diffusion-1", "stable-diffusion-2"],
)
def test_both_make_the_same_images(tmp_path, options):
    pipe = pipelines.stable_diffusion(tmp_path, **options)
    model, images = ours(tmp_path / "pipeline")
    noise = SeededNoise([3, 4]).draw((4, 8, 8))
    theirs = pipe(PROMPTS, latents=noise, num_inference_steps=STEPS, guidance_scale=3.0, output_type="np").images
    expected = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)
    assert model.size == (16, 16)
    assert model.autoencoder.scale.tolist() == [pytest.approx(0.3)] * 4


def test_both_make_the_same_images_without_captions_and_on_a_codebook(tmp_path):
    pipe = pipelines.unconditional(tmp_path)
    _, images = ours(tmp_path / "pipeline", guided=False)
    noise = SeededNoise([3, 4]).draw((3, 8, 8))
    latents = noise
    pipe.scheduler.set_timesteps(STEPS)
    with torch.no_grad():
        for step in pipe.scheduler.timesteps:
            latents = pipe.scheduler.step(pipe.unet(latents, step).sample, step, latents).prev_sample
        expected = pipe.vqvae.decode(latents).sample.clamp(-1, 1)
    assert expected.std() > 0.05
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("variant", ["fp16", "parts", "bin"])
def test_halves_parts_and_old_files_are_read(tmp_path, variant):
    pipe = pipelines.stable_diffusion(tmp_path)
    _, images = ours(tmp_path / "pipeline")
    other = tmp_path / "other"
    if variant == "fp16":
        pipe.to(torch.float16).save_pretrained(other, variant="fp16")
    else:
        pipe.save_pretrained(
            other, safe_serialization=variant != "bin", max_shard_size="500KB" if variant == "parts" else "5GB"
        )
    if variant == "parts":
        assert len(list((other / "unet").glob("*.safetensors"))) > 1
    _, again = ours(other)
    tolerance = 0.05 if variant == "fp16" else 0.0
    assert (again - images).abs().max() <= tolerance


def test_single_components_are_read(tmp_path):
    pipe = pipelines.stable_diffusion(tmp_path)
    autoencoder, _ = checkpoint.load_autoencoder(tmp_path / "pipeline" / "vae")
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = pipe.vae.encode(image).latent_dist.mean
        torch.testing.assert_close(autoencoder.encode(image).mean, expected, atol=1e-5, rtol=0)
    found = read_foreign(tmp_path / "pipeline" / "unet")
    assert found.config["_target_"] == "ldm.backbone.unet.UNet"
    whole, _ = checkpoint.load_autoencoder(tmp_path / "pipeline")
    assert torch.equal(whole.encode(image).mean, autoencoder.encode(image).mean)


def edit(file, **change):
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))


def test_what_no_model_of_ours_has_is_refused(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    folder = tmp_path / "pipeline"
    edit(folder / "unet" / "config.json", addition_embed_type="text_time")
    with pytest.raises(ValueError, match="addition_embed_type='text_time'"):
        read_foreign(folder)
    edit(folder / "unet" / "config.json", addition_embed_type=None)
    edit(folder / "scheduler" / "scheduler_config.json", beta_schedule="squaredcos_cap_v2")
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        read_foreign(folder)
    edit(folder / "scheduler" / "scheduler_config.json", beta_schedule="scaled_linear", prediction_type="strange")
    with pytest.raises(ValueError, match="prediction_type='strange'"):
        read_foreign(folder)
    edit(folder / "model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    with pytest.raises(ValueError, match="components that no model here has: text_encoder_2"):
        read_foreign(folder)
    edit(folder / "model_index.json", text_encoder_2=[None, None])
    shutil.rmtree(folder / "vae")
    with pytest.raises(ValueError, match="lacks the folders vae"):
        read_foreign(folder)


def test_images_are_not_all_alike(tmp_path):
    """A test of the test: the networks distinguish noise and captions."""
    pipelines.stable_diffusion(tmp_path)
    model, _ = ours(tmp_path / "pipeline")
    same = model.sample(prompts=[PROMPTS[0]] * 2, seeds=[3, 3], sampler=DDIM(STEPS))
    assert torch.allclose(same[0], same[1], atol=1e-5)
    other = model.sample(prompts=PROMPTS, seeds=[3, 3], sampler=DDIM(STEPS), guidance=ClassifierFreeGuidance(3.0))
    assert np.abs((other[0] - other[1]).numpy()).max() > 0.02


@pytest.mark.e2e
def test_a_pipeline_is_measured_as_a_model_of_ours(tmp_path, places, caplog):
    pipelines.stable_diffusion(tmp_path)
    rows = [f"{number}\t{number}\t{PROMPTS[number % 2]}" for number in range(4)]
    (tmp_path / "captions.tsv").write_text("\n".join(["id\timage_id\tcaption", *rows]))
    (tmp_path / "real").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (40 * number, 100, 200)).save(tmp_path / "real" / f"{number}.png")
    options = [f"ckpt={tmp_path}/pipeline", f"reference={tmp_path}/real", f"conditions.file={tmp_path}/captions.tsv"]
    more = [
        "conditions=captions",
        "metric=offline",
        "sampler=ddim",
        "sampler.steps=2",
        "device=cpu",
        f"out={tmp_path}/scores",
    ]
    with caplog.at_level(logging.INFO):
        (found,) = evaluate(compose("evaluate", [*options, *more, *places[:1]]))
    assert caplog.text.count("has the layout of") == 1, "it is read once"
    assert found["scores"]["frechet_efficientnet"] > 0
    assert found["count"] == 4


def test_components_without_the_file_that_joins_them_are_named(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    folder = tmp_path / "pipeline"
    (folder / "model_index.json").unlink()
    message = r"components \(text_encoder, unet, vae\), but neither model_index.json nor ldm_config.json"
    with pytest.raises(ValueError, match=message) as raised:
        read_foreign(folder)
    assert str(raised.value).endswith(f"One component alone can be read: {folder / 'unet'}")
    assert read_foreign(folder / "unet").config["_target_"].endswith("UNet"), "what is advised works"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"neither model_index.json nor config.json.*give one that is"):
        read_foreign(tmp_path / "empty")
    (tmp_path / "empty" / "config.yaml").touch()
    with pytest.raises(
        ValueError, match="empty is a run of this project, which is read as it is; give it as ckpt=.*empty$"
    ):
        read_foreign(tmp_path / "empty")
