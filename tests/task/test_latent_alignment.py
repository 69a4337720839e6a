"""Alignment of latents: the laws of its two losses, what it trains, and that the finished model knows nothing of it."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException
from safetensors.torch import load_file

from ldm.callback.curves import read_metrics
from ldm.config import build
from ldm.pretrained.efficientnet import EfficientNetFeatureMap, EfficientNetLite0
from ldm.pretrained.vision import FeatureMapEncoder, VisionEncoder
from ldm.task.latent_alignment import VFLoss, marginal_cosine, marginal_distance_matrix
from tests.conftest import forked, forked_ranks
from tests.pretrained.test_vision import save_vision
from tests.task.test_training import Data, autoencoder, optimizers, train
from tests.training.stages import built, composed

TINY = ["train.py", "experiment=txt2img", "debug=tiny", "trainer=cpu", "stage=[autoencoder_icons]"]


class Fixed(FeatureMapEncoder):
    """Features that are the colours of the image and their negatives, over blocks of four pixels."""

    width = 6
    features_hash = "colours"

    def forward(self, image):
        small = F.avg_pool2d(image, 4)
        return torch.cat([small, -small], 1)


def rotation(width):
    return torch.linalg.qr(torch.randn(width, width))[0]


def turned(maps, matrix):
    return torch.einsum("dc,bchw->bdhw", matrix, maps)


def test_aligned_within_the_margins_there_is_no_loss():
    feature = torch.randn(2, 8, 4, 4)
    lengths = torch.rand(2, 1, 4, 4) + 0.1
    for margin in (0.0, 0.5):
        assert float(marginal_cosine(lengths * feature, feature, margin)) == pytest.approx(0.0, abs=1e-6)
        assert float(marginal_distance_matrix(lengths * feature, feature, margin)) == pytest.approx(0.0, abs=1e-6)
    near = feature + 0.05 * torch.randn(feature.shape)
    assert marginal_cosine(near, feature, 0.5) == 0
    assert marginal_distance_matrix(near, feature, 0.25) == 0
    assert marginal_cosine(near, feature, 0.0) > 0


def test_the_cosine_loss_is_what_exceeds_the_margin():
    feature = torch.tensor([1.0, 0.0])[None, :, None, None]
    for angle in (0.0, 0.7, 1.2, math.pi):
        latent = 3.0 * torch.tensor([math.cos(angle), math.sin(angle)])[None, :, None, None]
        expected = max(0.0, 1 - 0.5 - math.cos(angle))
        assert float(marginal_cosine(latent, feature, 0.5)) == pytest.approx(expected, abs=1e-6)


def test_relations_do_not_change_with_a_rotation_but_places_do():
    """A rotation of the latents changes no cosine between two of them; nor does a feature of another length."""
    latent, feature = torch.randn(2, 8, 4, 4), torch.randn(2, 5, 4, 4)
    found = marginal_distance_matrix(latent, feature, 0.1)
    assert found > 0
    torch.testing.assert_close(marginal_distance_matrix(turned(latent, rotation(8)), feature, 0.1), found)
    torch.testing.assert_close(marginal_distance_matrix(latent, 7 * turned(feature, rotation(5)), 0.1), found)
    order = torch.randperm(16)
    shuffled = [maps.flatten(2)[..., order].unflatten(2, (4, 4)) for maps in (latent, feature)]
    torch.testing.assert_close(marginal_distance_matrix(*shuffled, 0.1), found)
    assert marginal_distance_matrix(shuffled[0], feature, 0.1) != found


def test_the_matrix_loss_is_a_mean_over_all_pairs():
    latent, feature = torch.randn(3, 4, 2, 3), torch.randn(3, 7, 2, 3)
    expected = 0.0
    for image in range(3):
        for i in range(6):
            for j in range(6):
                cosines = [
                    F.cosine_similarity(maps[image].flatten(1)[:, i], maps[image].flatten(1)[:, j], dim=0)
                    for maps in (latent, feature)
                ]
                expected += max(0.0, float(abs(cosines[0] - cosines[1])) - 0.25) / (3 * 36)
    assert float(marginal_distance_matrix(latent, feature, 0.25)) == pytest.approx(expected, rel=1e-5)


def test_its_gradient_at_the_encoders_last_layer_is_a_fraction_of_that_of_the_reconstruction():
    layer, image = torch.nn.Conv2d(3, 4, 4, stride=4), torch.rand(2, 3, 16, 16)
    for size in (1.0, 50.0):
        alignment = VFLoss(4, Fixed(), weight=0.1)
        raw = layer(image)
        reconstruction = size * raw.square().mean()
        loss = alignment(raw, image, reconstruction=reconstruction, last_layer=layer.weight)
        norms = [
            torch.autograd.grad(part, layer.weight, retain_graph=True)[0].norm() for part in (loss, reconstruction)
        ]
        assert float(norms[0] / norms[1]) == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize("margin", [-0.1, 2.5])
def test_margins_that_cannot_be_are_refused(margin):
    with pytest.raises(ValueError, match="latent_alignment.cosine_margin"):
        VFLoss(4, Fixed(), cosine_margin=margin)


def test_features_follow_the_places_of_the_latents():
    alignment, image = VFLoss(3, Fixed(), cosine_margin=0.0, distance_margin=0.0), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        alignment.project.weight.copy_(torch.cat([torch.eye(3), -torch.eye(3)])[..., None, None])
        assert float(alignment.distance(F.avg_pool2d(image, 4), image)) == pytest.approx(0.0, abs=1e-5)
        smooth = F.interpolate(torch.rand(2, 3, 2, 2), 32, mode="bilinear")
        for side in (4, 16):
            other = F.interpolate(smooth, (side, side), mode="bilinear", antialias=True)
            assert float(alignment.distance(other, smooth)) < 0.02


def test_efficientnets_features_have_places_whose_mean_is_that_of_the_distance():
    image = torch.rand(2, 3, 48, 48) * 2 - 1
    encoder = EfficientNetFeatureMap(size=64).train()
    features = encoder(image)
    assert features.shape == (2, 1280, 2, 2)
    torch.testing.assert_close(features.mean((2, 3)), EfficientNetLite0(size=64)(image))
    assert not encoder.training
    with pytest.raises(ValueError, match="encoder.size=16"):
        EfficientNetFeatureMap(size=16)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_encoder_and_projection_learn_to_resemble_the_features(precision):
    """The margins are 0, and the images are the same in all steps, with a discriminator from the first step on."""
    aligned = {}
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        task = autoencoder(
            optimizer=optimizers([]),
            accumulate=2,
            latent_alignment=lambda channels, weight=weight: VFLoss(
                channels, Fixed(), weight=weight, cosine_margin=0.0, distance_margin=0.0
            ),
        )
        before = task.latent_alignment.project.weight.detach().clone()
        encoder = [part.detach().clone() for part in task.model.encoder.parameters()]
        data = Data(16, 8)
        trainer = train(task, data, precision, steps=12)
        assert ("train/latent_alignment" in trainer.callback_metrics) is True
        moved = (task.latent_alignment.project.weight - before).abs().max()
        assert (moved > 1e-3) == (weight > 0)
        assert any(not torch.equal(a, b) for a, b in zip(encoder, task.model.encoder.parameters(), strict=True))
        with torch.no_grad():
            aligned[weight] = float(task.latent_alignment.distance(task.model.encode(data.images).mean, data.images))
    assert aligned[3.0] < aligned[0.0] - 0.05
    assert not [name for name in task.state_dict() if "_encoder" in name], "the vision encoder is not saved"


def test_a_gradient_of_it_reaches_the_encoder():
    task = autoencoder(optimizer=optimizers([]), latent_alignment=lambda channels: VFLoss(channels, Fixed()))
    image = Data(16, 2).images
    encoding = task.model.encode(image)
    task.latent_alignment.distance(encoding.sample(), image).backward()
    assert task.model.encoder.conv_in.weight.grad.abs().max() > 0
    assert task.model.last_layer().grad is None, "the decoder has no part in it"


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_one_option_chooses_it_with_an_encoder_from_a_folder(tmp_path, kind):
    folder = save_vision(tmp_path / kind, kind)
    options = [f"latent_alignment.encoder.name={folder}", "latent_alignment.encoder.size=16"]
    stage = built("autoencoder", composed(*TINY[1:], "latent_alignment=va_vae", *options), tmp_path)
    alignment = stage.task.latent_alignment
    assert isinstance(alignment._encoder[0], VisionEncoder)
    assert alignment.project.weight.shape == (16, 4, 1, 1)
    assert (alignment.weight, alignment.cosine_margin, alignment.distance_margin) == (0.1, 0.5, 0.25)
    assert alignment.distance(torch.randn(1, 4, 8, 8), torch.rand(1, 3, 32, 32)).isfinite()


def test_without_its_encoder_it_says_what_to_do(tmp_path):
    config = composed(*TINY[1:], "latent_alignment=va_vae", "latent_alignment.encoder.name=/nowhere")
    with pytest.raises(InstantiationException, match="no vision encoder '/nowhere'.*set the encoder's name=FOLDER"):
        built("autoencoder", config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_without_it_the_task_is_what_it_was(tmp_path):
    config = composed(*TINY[1:])
    assert config.latent_alignment is None
    assert built("autoencoder", config, tmp_path).task.latent_alignment is None
    assert build(composed(*TINY[1:], "latent_alignment=va_vae_icons").stage.autoencoder.latent_alignment)(4).project


@pytest.mark.e2e
def test_a_run_with_it_can_be_continued_on_two_processes_and_leaves_a_plain_model(home, places, tiny_run):
    """Stopped after ten steps, with the discriminator from step ten on, it goes on; its file has the tensors of a plain one."""
    options = ["latent_alignment=va_vae_icons", "latent_alignment.encoder.size=32", *places]
    two = [
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "stage.autoencoder.trainer.accumulate_grad_batches=2",
    ]
    forked(*TINY, *options, "name=aligned")
    whole = home / "runs" / "aligned"
    results = json.loads((whole / "autoencoder" / "results.json").read_text())
    assert results["val/psnr"] > 5
    plain, made = (load_file(run / "autoencoder.safetensors") for run in (tiny_run, whole))
    assert {name: part.shape for name, part in made.items()} == {name: part.shape for name, part in plain.items()}

    for name in ("step-00000020.ckpt", "step-00000015.ckpt"):
        (whole / "autoencoder" / "checkpoints" / name).unlink()
    for file in (whole / "autoencoder.safetensors", whole / "autoencoder" / "results.json"):
        file.unlink()
    text = forked(*TINY, *options, "name=aligned")
    assert "continuing" in text
    again = load_file(whole / "autoencoder.safetensors")
    assert all(torch.equal(part, again[name]) for name, part in made.items()), "as if it had not stopped"
    forked_ranks(*TINY[:3], *TINY[4:], *options, *two, "name=aligned-two")
    found = json.loads((home / "runs" / "aligned-two" / "autoencoder" / "results.json").read_text())
    assert found["val/psnr"] > 5
    for run in (whole, home / "runs" / "aligned-two"):
        curves = read_metrics(run / "autoencoder" / "logs")
        for name in ("train/total", "train/gradient_norm", "throughput/data_wait"):
            assert [step for step, _ in curves[name]] == [5, 10, 15, 20], "optimiser steps, whatever is accumulated"
        assert [step for step, _ in curves["val/psnr"]] == [10, 20]
