"""The recipes of today in whole runs: every part of them, with networks of few random weights in place of the pretrained ones."""

import json

import pytest

from ldm.checkpoint import load
from ldm.data.shards.names import write_shards
from tests.conditioner.test_conditioner import save_pretrained
from tests.conftest import forked
from tests.data.small_shards import sample
from tests.pretrained.test_clip_score import save_clip
from tests.pretrained.test_vision import save_vision

pytestmark = pytest.mark.e2e

SHAPES = {"square": (64, 64), "wide": (96, 48), "tall": (48, 96)}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, home, places):
    """Options of the recipes with tiny parts: rectangles with short and long captions, T5, DINOv2, CLIP."""
    folder = tmp_path_factory.mktemp("modern")
    record = json.dumps({"long_caption": "a red heart that lies on a white background", "similarity": 0.3}).encode()
    samples = [
        sample(f"{name}-{number}", size=size, number=number, txt=b"a red heart", json=record)
        for number in range(16)
        for name, size in SHAPES.items()
    ]
    write_shards(samples[:36], folder, "train", samples_per_shard=36)
    write_shards(samples[36:], folder, "val", samples_per_shard=36)
    text, vision, clip = folder / "t5", folder / "dinov2", folder / "clip"
    save_pretrained(text, "t5")
    save_vision(vision, "dinov2")
    clip.mkdir()
    save_clip(clip)
    return [
        *(f"data.{split}={folder}/{split}-*.tar" for split in ("train", "val")),
        *("trainer=cpu", "trainer.max_steps=2", "stage.diffusion.batch_size=4", "data.workers=0"),
        *("data.size=32", "data.buckets.multiple=8", "data.max_broken=0.9"),
        *(f"conditioner.name={text}", "conditioner.width=16", "conditioner.max_tokens=12"),
        *(f"metric.clip_score.name={clip}", "debug=tiny_diffusion", *places),
        f"alignment.encoder.name={vision}",
        "alignment.encoder.size=24",
    ]


def test_modern_trains_two_steps_then_larger_images_from_its_weights(tiny, tiny_run, home):
    first = [option for option in tiny if not option.startswith("data.size=")]
    ckpt = f"autoencoder.ckpt={tiny_run / 'autoencoder.safetensors'}"
    forked("train.py", "experiment=txt2img_modern", ckpt, "name=modern", "data.size=32", *first)
    results = json.loads((home / "runs" / "modern" / "diffusion" / "results.json").read_text())
    assert {"eval/clip_score", "eval/frechet_efficientnet", "val/loss"} <= results.keys()
    assert -1 <= results["eval/clip_score"] <= 1
    model = load(home / "runs" / "modern")
    assert type(model.denoiser.prediction).__name__ == "FlowPrediction"
    assert model.sample(prompts=["a red heart"], size=(48, 24)).shape == (1, 3, 48, 24)
    assert list((home / "runs" / "modern" / "diffusion" / "ema").iterdir()), "snapshots of the averages"
    larger = [option for option in first if not option.startswith("alignment")]
    more = [
        "data.filters=['side >= 48']",
        "init=" + str(home / "runs" / "modern"),
        "name=modern-larger",
        "data.size=64",
    ]
    text = forked("train.py", "experiment=txt2img_modern_512", *more, "trainer.accumulate_grad_batches=2", *larger)
    assert "finished" in text
    assert load(home / "runs" / "modern-larger").size == (64, 64)
