from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.conditioner.vision import VisionEncoder
from ldm.config import build, compose
from ldm.task.alignment import REPA
from tests.conftest import scramble

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}


@pytest.fixture(params=["dinov2", "vit"])
def folder(request, tmp_path):
    """A vision transformer of few random weights, as the hub's lie on disk."""
    network = {
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, image_size=24)),
        "vit": lambda: ViTModel(ViTConfig(**SIZES, image_size=24), add_pooling_layer=False),
    }[request.param]()
    network.save_pretrained(tmp_path)
    return tmp_path


def unet():
    return scramble(UNet(4, channels=8, multipliers=(1, 2), attention_levels=(), heads=2, blocks=1, groups=4))


def test_features_have_their_places(folder):
    """A change in one corner of the image changes the features of that corner most."""
    encoder = VisionEncoder(str(folder), side=32)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    features = encoder.train()(image)
    assert features.shape == (2, 16, 8, 8)
    assert not features.requires_grad
    changed = image.clone()
    changed[..., :4, 28:] *= -1
    moved = (encoder(changed) - features).square().sum((0, 1))
    assert int(moved.argmax()) == 7


def test_colours_are_standardized_as_the_encoder_was_trained(folder):
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    plain = VisionEncoder(str(folder), side=16)(image)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    encoder = VisionEncoder(str(folder), side=16)
    assert encoder.statistics == ([0.5] * 3, [0.5] * 3)
    assert not torch.allclose(encoder(image), plain)


def test_aligning_brings_the_backbones_features_near_to_the_encoders(folder):
    encoder = VisionEncoder(str(folder), side=16)
    network = unet()
    alignment = REPA(network, encoder, weight=0.5, steps=100)
    assert "encoder" not in "".join(alignment.state_dict())
    image, x_t = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 4, 8, 8)
    optimizer = torch.optim.Adam([*alignment.parameters(), *network.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        network(x_t, torch.full((4,), 0.5), Condition())
        loss = alignment(image, step=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert -0.5 <= losses[-1] < losses[0] - 0.2
    assert network.conv_in.weight.grad.abs().max() > 0, "the backbone learns, not the projection alone"
    assert all(part.grad is None for part in encoder.parameters())


def test_after_its_steps_it_is_nothing_but_finds_gradients(folder):
    network = unet()
    alignment = REPA(network, VisionEncoder(str(folder), side=16), steps=7)
    network(torch.randn(1, 4, 8, 8), torch.ones(1), Condition())
    loss = alignment(None, step=7)
    loss.backward()
    assert loss.item() == 0
    assert all(float(part.grad.abs().max()) == 0 for part in alignment.parameters())


def test_the_loss_is_minus_the_cosine():
    class Fixed(torch.nn.Module):
        width = 5

        def forward(self, image):
            return image[:, :1].expand(-1, 5, -1, -1)

    backbone = SimpleNamespace(deepest=torch.nn.Identity(), deepest_channels=3)
    alignment = REPA(backbone, Fixed(), weight=2.0)
    features, image = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    backbone.deepest(features)
    cosine = F.cosine_similarity(alignment.project(features), image[:, :1].expand(-1, 5, -1, -1), dim=1)
    torch.testing.assert_close(alignment(image, step=0), -2 * cosine.mean())
    with pytest.raises(ValueError, match="alignment needs images, but batches hold latents"):
        alignment(None, step=0)


def test_one_option_chooses_it_and_it_fits_to_any_backbone(folder):
    options = ["alignment=repa", f"alignment.encoder.name={folder}", "alignment.encoder.side=16", "alignment.steps=7"]
    alignment = build(compose("train", ["experiment=txt2img", *options]).stage.diffusion.alignment)
    for multipliers in ((1, 2), (1, 2, 3)):
        network = UNet(4, channels=8, multipliers=multipliers, attention_levels=(), heads=2, blocks=1, groups=4)
        assert network.deepest_channels == 8 * multipliers[-1]
        aligned = alignment(network)
        network(torch.randn(2, 4, 8, 8), torch.ones(2), Condition())
        assert aligned.steps == 7
        assert aligned(torch.rand(2, 3, 32, 32), step=6).isfinite()
    assert compose("train", ["experiment=txt2img"]).stage.diffusion.alignment is None


def test_encoders_that_do_not_fit(folder):
    with pytest.raises(ValueError, match="side 30 is not a multiple of the patches"):
        VisionEncoder(str(folder), side=30)
    with pytest.raises(FileNotFoundError, match="no vision encoder '/nowhere'"):
        VisionEncoder("/nowhere")
