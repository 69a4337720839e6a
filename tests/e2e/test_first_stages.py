"""First stages other than KL in whole runs: trained, diffused in, encoded, fine-tuned; and the one that is not trained."""

import csv
import json

import pytest
import torch
from PIL import Image

from ldm.autoencoder.identity import CopyAutoencoder
from ldm.batch import Batch
from ldm.callback.curves import read_metrics
from ldm.checkpoint import load, load_autoencoder, read
from ldm.files.picture import to_tensor
from tests.conftest import forked

pytestmark = pytest.mark.e2e

TINY = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu"]
PROMPT = "prompt=a red heart on a white background"


@pytest.fixture(scope="module")
def vq_run(home, places):
    """The folder of a finished tiny run of both stages with a codebook, whose unused codes are soon replaced."""
    forked(*TINY, "autoencoder=vq_icons", "autoencoder.network.regularizer.revive_after=3", "name=vq", *places)
    return home / "runs" / "vq"


def test_a_codebook_trains_and_a_diffusion_model_in_its_latents(vq_run):
    results = json.loads((vq_run / "autoencoder" / "results.json").read_text())
    assert results["val/codebook_usage"] > 0.02, "of 512 codes some are used, as unused ones are replaced"
    assert results["val/perplexity"] > 4
    curves = read_metrics(vq_run / "autoencoder" / "logs")
    assert {"train/quantization", "train/codebook_usage", "train/perplexity", "train/discriminator"} <= curves.keys()
    assert {"val/quantization", "val/codebook_usage", "val/perplexity"} <= curves.keys()
    model = load(vq_run)
    network, _ = load_autoencoder(vq_run)
    assert model.autoencoder.same_latents(network)
    image = model.sample(prompts=["a red heart"])
    assert image.isfinite().all()
    batches = [{"image": image.expand(4, -1, -1, -1)}]
    batches += [{"moments": network.encode(batches[0]["image"]).moments}]
    losses = []
    for fields in batches:
        torch.manual_seed(3)
        losses.append(model.loss(Batch(["k"] * 4, {"caption": ["a red heart"] * 4, **fields})))
    torch.testing.assert_close(*losses)


def test_a_killed_run_goes_on_with_the_same_codes(vq_run, places, home, tmp_path):
    """In the middle of replacing them: how long each was not used lies in the checkpoint."""
    same = ["experiment=txt2img", "debug=tiny", "trainer=cpu", "autoencoder=vq_icons", "stage=[autoencoder_icons]",
            "autoencoder.network.regularizer.revive_after=3", "name=vq-killed", *places]  # fmt: skip
    forked("-m", "tests.recorded", str(tmp_path / "record"), "autoencoder/12/SIGKILL", *same, ok=False)
    assert not (home / "runs" / "vq-killed" / "autoencoder.safetensors").exists()
    forked("train.py", *same)
    killed, whole = (read(home / "runs" / name / "autoencoder.safetensors")[1] for name in ("vq-killed", "vq"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    assert whole["regularizer.batches"] == 20


def test_latents_are_encoded_once_and_trained_on(vq_run, places, home, tmp_path):
    source = min((home / "data").glob("icons-*/train-000000.tar"), key=lambda path: path.stat().st_mtime).parent
    images = [f"data.{part}={source}/{part}-*.tar" for part in ("train", "val")]
    ckpt, out = f"autoencoder.ckpt={vq_run}", tmp_path / "latents"
    forked("-m", "ldm.encode", ckpt, f"out={out}", "data.size=32", "data.workers=0", *images, *places)
    networks = ["backbone=unet_icons", "conditioner=transformer_icons", "debug=tiny_diffusion", "trainer=cpu"]
    given = [f"data.train={out}/train-*.tar", images[1], "data.size=32", "data.workers=0", "name=vq-latents"]
    forked("train.py", "experiment=txt2img_shards", "data=latents", ckpt, *networks, *given, *places)
    network, _ = load_autoencoder(vq_run)
    assert load(home / "runs" / "vq-latents").autoencoder.same_latents(network)


def test_fine_tuning_the_decoder_keeps_latents_and_codes(vq_run, places, home, tmp_path):
    options = [
        "data=icons",
        "data.source.count=6",
        "data.size=32",
        "debug=tiny_autoencoder",
        "trainer=cpu",
        "name=vq-tuned",
    ]
    forked("train.py", "experiment=finetune_decoder", f"autoencoder.ckpt={vq_run}", *options, *places)
    before, _ = load_autoencoder(vq_run)
    after, _ = load_autoencoder(home / "runs" / "vq-tuned")
    assert after.same_latents(before)
    assert torch.equal(after.regularizer.codebook.weight, before.regularizer.codebook.weight)
    assert not torch.equal(after.last_layer(), before.last_layer())
    made = {}
    for name, decoder in (("own", []), ("tuned", [f"decoder={home / 'runs' / 'vq-tuned'}"])):
        forked("sample.py", f"ckpt={vq_run}", PROMPT, "n=1", "device=cpu", f"out={tmp_path / name}", *decoder)
        made[name] = to_tensor(Image.open(tmp_path / name / "00000.png"))
    assert not torch.equal(made["own"], made["tuned"])
    init = f"init={tmp_path / 'own' / '00000.png'}"
    forked("sample.py", f"ckpt={vq_run}", "mode=reconstruct", init, "device=cpu", f"out={tmp_path / 'back'}")
    with torch.no_grad():
        expected = before.decode(before.encode(made["own"][None]).mean)[0].clamp(-1, 1)
    assert (to_tensor(Image.open(tmp_path / "back" / "00000.png")) - expected).abs().max() <= 2 / 127.5


def test_pixels_are_diffused_without_a_first_stage(home, places):
    options = ["autoencoder=identity", "stage=[autoencoder_icons,diffusion_icons]", "data.size=16", "name=pixels"]
    forked(*TINY, *options, *places)
    run = home / "runs" / "pixels"
    assert not (run / "autoencoder").exists()
    assert not (run / "autoencoder.safetensors").exists()
    model = load(run)
    assert isinstance(model.autoencoder, CopyAutoencoder)
    assert model.denoiser.backbone.conv_in.in_channels == 3
    assert model.sample(prompts=["a red heart"]).shape == (1, 3, 16, 16)
    with (run / "diffusion" / "logs" / "metrics.csv").open() as lines:
        assert any(row["val/loss"] for row in csv.DictReader(lines))
    network, _ = load_autoencoder(run)
    assert network.same_latents(model.autoencoder)
    text = forked(*TINY, "autoencoder=identity", "stage=[autoencoder_icons]", "name=nothing", *places, ok=False)
    assert "there is nothing to train: the autoencoder is given by autoencoder.ckpt, or only copies" in text
    given = [f"autoencoder.ckpt={run}", "data=icons", "debug=tiny_autoencoder", "trainer=cpu", "name=nothing"]
    text = forked("train.py", "experiment=finetune_decoder", *given, *places, ok=False)
    assert "only copies images, so that there is no decoder to fine-tune" in text
    assert not (home / "runs" / "nothing").exists()
