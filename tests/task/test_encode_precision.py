"""The precision in which a training step encodes images: what it changes, what it leaves, and that it is looked at."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from ldm.autoencoder.derived import with_derived_fields
from ldm.batch import Batch
from ldm.config import build, resolved
from ldm.pretrained.precision import encoding_in
from ldm.task.diffusion import DiffusionTask
from tests import configs
from tests.conftest import forked, scramble
from tests.data.caching import small_autoencoder

BF16 = "bf16-mixed"


@pytest.fixture
def batch():
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Batch(["a", "b", "c"], {"image": image, "mask": torch.zeros(3, 1, 16, 16)}, [])


def under_autocast(compute):
    with torch.autocast("cpu", torch.bfloat16):
        return compute()


def test_the_frozen_encoder_computes_in_fp32_unless_another_is_chosen(batch):
    network = small_autoencoder(0)
    image = batch.fields["image"]
    exact = network.encode(image).moments
    assert torch.equal(under_autocast(lambda: network.encode_frozen(image).moments), exact)
    with encoding_in(BF16):
        found = network.encode_frozen(image)
        masked = with_derived_fields(batch.fields, ["masked_latent"], network, size=[8, 8])["masked_latent"]
    expected = under_autocast(lambda: network.encode_moments(image))
    assert expected.dtype == torch.bfloat16
    assert torch.equal(found.moments, expected.float()), "what follows the encoder is computed in fp32"
    assert not torch.equal(found.moments, exact)
    assert torch.equal(masked, network.to_latent(found.mean)), "nothing is masked here"
    assert torch.equal(network.encode_frozen(image).moments, exact), "only within"


def task(precision, autoencoder=None):
    config = configs.composed("train", "experiment=txt2img", "debug=tiny")
    model = build(resolved(config.model))
    model.autoencoder.load_state_dict((autoencoder or scramble(model.autoencoder)).state_dict())
    model.conditioner.prepare([{"caption": ["a red heart"]}])
    made = DiffusionTask(
        model,
        optimizer=torch.optim.AdamW,
        scheduler=torch.optim.lr_scheduler.ConstantLR,
        config={},
        encode_precision=precision,
    )
    made._trainer = SimpleNamespace(
        is_global_zero=True, strategy=SimpleNamespace(broadcast=lambda value: value), global_step=0
    )
    made.log = lambda *args, **options: None
    return made


def captioned():
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return Batch(list("abcd"), {"image": image, "caption": ["a red heart"] * 4}, [])


def test_it_is_that_of_training_and_not_of_validation(monkeypatch):
    made, seen = task(BF16), []
    encode = made.model.autoencoder.encode_moments
    monkeypatch.setattr(made.model.autoencoder, "encode_moments", lambda image: seen.append(encode(image)) or seen[-1])
    made.training_loss(captioned())
    made.validation_step(captioned(), 0)
    assert [moments.dtype for moments in seen] == [torch.bfloat16, torch.float32]


def test_the_first_images_are_compared_once_and_said(caplog):
    made, compiled = task(BF16), []
    made.model.autoencoder.encoder.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    with caplog.at_level(logging.INFO):
        made.on_train_batch_start(captioned(), 0)
        made.on_train_batch_start(captioned(), 1)
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("encodes images in bf16-mixed: the latents of 4 differ from those in 32-true by 0.0")
    assert not compiled, "for a number of images that is not that of a step"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        task("32-true").on_train_batch_start(captioned(), 0)
        latents = Batch(["a"], {"moments": torch.zeros(1, 8, 8, 8), "caption": ["a"]}, [])
        task(BF16).on_train_batch_start(latents, 0)
    assert not caplog.records, "nothing is encoded"


def test_latents_that_it_changes_too_much_are_refused():
    made = task(BF16)
    with torch.no_grad():  # far from zero bf16 has few digits for what latents differ in
        network = made.model.autoencoder
        network.to_moments.bias[: network.latent_channels].fill_(300.0)
        network.to_moments.bias[network.latent_channels :].fill_(-20.0)
    with pytest.raises(
        ValueError, match="encode_precision=bf16-mixed changes these latents too much: .* set encode_precision=32"
    ):
        made.on_train_batch_start(captioned(), 0)


@pytest.mark.e2e
def test_a_run_with_it(tiny_run, places):
    options = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", f"autoencoder.ckpt={tiny_run}", *places]
    options += ["stage=[diffusion_icons]", "callbacks=none", "data.cache_latents=false"]
    text = forked(*options, "name=in_bf16", "encode_precision=bf16-mixed")
    assert re.search(r"encodes images in bf16-mixed: the latents of \d+ differ from those in 32-true by 0\.0", text)
    forked(*options, "name=in_fp32")
    one, other = (load_file(tiny_run.parent / name / "model.safetensors") for name in ("in_bf16", "in_fp32"))
    weight = "denoiser.backbone.conv_in.weight"
    assert not torch.equal(one[weight], other[weight])
    torch.testing.assert_close(one[weight], other[weight], atol=0.05, rtol=0.05)
