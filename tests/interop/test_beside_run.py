"""Programs with models conditioned on text and a mask or a depth map: they sample, and are made of a Stable Diffusion."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from ldm import checkpoint
from tests.conftest import forked
from tests.interop import pipelines
from tests.interop.scenes import CHANNELS, FIRST, PROMPTS, ours, scene, theirs, written
from tests.interop.test_finetune import source


@pytest.mark.e2e
@pytest.mark.slow
def test_the_program_fills_a_hole_as_the_caption_says(tmp_path):
    pipelines.stable_diffusion(tmp_path, kind=StableDiffusionInpaintPipeline)
    fields = scene()
    picture, hole = tmp_path / "photo.png", tmp_path / "mask.png"
    pixels = ((fields["image"][0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(picture)
    Image.fromarray((fields["mask"][0, 0] * 255).byte().numpy()).save(hole)
    found = {}
    for prompt in PROMPTS:
        out = tmp_path / prompt.replace(" ", "_")
        options = [
            "mode=inpaint",
            f"init={picture}",
            f"mask={hole}",
            "border=0",
            "n=1",
            "sampler.steps=2",
            f"out={out}",
        ]
        forked("sample.py", f"ckpt={tmp_path}/pipeline", f"prompt={prompt}", *options)
        found[prompt] = torch.from_numpy(np.asarray(Image.open(out / "00000.png")).copy()).permute(2, 0, 1)
    masked = fields["mask"][0].bool().expand(3, -1, -1)
    before = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for image in found.values():
        assert torch.equal(image[~masked], before[~masked])
        assert not torch.equal(image[masked], before[masked])
    first, second = found.values()
    assert not torch.equal(first[masked], second[masked])


@pytest.mark.e2e
def test_the_program_takes_depth_and_a_caption(tmp_path):
    file, _ = written(tmp_path, "depth", open_clip=True)
    images = []
    for number, depth in enumerate((scene()["depth"][0, 0] - 40, scene()["depth"][1, 0] - 40)):
        Image.fromarray((depth * 85).byte().numpy()).save(tmp_path / f"{number}.png")
        options = [f"depth={tmp_path}/{number}.png", "n=1", "sampler.steps=2", f"out={tmp_path}/out{number}"]
        forked("sample.py", f"ckpt={file}", f"prompt={PROMPTS[0]}", *options)
        images.append(np.asarray(Image.open(tmp_path / f"out{number}" / "00000.png")))
    assert not np.array_equal(*images)
    text = forked("sample.py", f"ckpt={file}", f"prompt={PROMPTS[0]}", "n=1", f"out={tmp_path}/none", ok=False)
    assert "depth" in text


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("name", CHANNELS)
def test_a_stable_diffusion_becomes_one_conditioned_on_a_map(tmp_path, name):
    """Zeros stand in the added channels before training; what was trained is run by the stock pipeline of diffusers."""
    file, tensors = source(tmp_path)
    options = [
        *("experiment=finetune", f"conditioner=text_and_{name}", "conditioner@conditioner.parts.text=clip_l"),
        *(f"ckpt={file}", "name=mapped", "data=icon_scenes", "data.cache_latents=false"),
        *("data.size=16", "metric=offline", "trainer=cpu", f"conditioner.parts.text.name={tmp_path}/clip"),
        *("conditioner.parts.text.width=64", "data.source.count=4", "data.workers=0", "data.val_images=4"),
        *("backbone.model_channels=32", "backbone.channel_mult=[1,2]", "backbone.blocks=1", "backbone.heads=2"),
        *("backbone.attention_levels=[0,1]", "autoencoder.network.channels=32", "autoencoder.network.blocks=1"),
        *("autoencoder.network.channel_mult=[1,2]", "stage.diffusion.batch_size=4", "trainer.max_steps=3"),
        *("stage.diffusion.validate_every_n_steps=3", "stage.diffusion.callbacks.evaluation=null", "optimizer.lr=1e-3"),
        *("sampler.steps=2", "scheduler.warmup_steps=1", "callbacks.ema.decay=0"),
        *(f"paths.runs_dir={tmp_path}/runs", f"paths.data_dir={tmp_path}/data"),
    ]
    forked("train.py", *options)
    account = json.loads((tmp_path / "runs" / "mapped" / "diffusion" / "init.json").read_text())
    assert account["extended"] == {FIRST[1]: [[32, 4, 3, 3], [32, CHANNELS[name], 3, 3]]}
    assert not account["new"]
    assert not account["left_out"]
    forked("-m", "ldm.interop.export", f"ckpt={tmp_path}/runs/mapped", f"out={tmp_path}/out")
    absent = {"depth_estimator": None, "feature_extractor": None} if name == "depth" else {}
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out", **absent)
    weight = pipe.unet.conv_in.weight.detach()
    assert not torch.equal(weight[:, :4], tensors[FIRST[0]])
    assert (weight[:, 4:].flatten(2) != 0).any(2).any(0).all(), "each added channel was trained"
    pipelines.without_spread(pipe.vae)
    model = checkpoint.load(tmp_path / "runs" / "mapped")
    torch.testing.assert_close(ours(model, spacing="trailing"), theirs(pipe), atol=1e-3, rtol=0)
