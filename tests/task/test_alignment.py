from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.config import build, compose
from ldm.pretrained.vision import VisionEncoder
from ldm.task.alignment import REPA
from tests.conftest import scramble
from tests.pretrained.test_vision import save_vision


@pytest.fixture(params=["dinov2", "vit"])
def folder(request, tmp_path):
    return save_vision(tmp_path, request.param)


def unet():
    return scramble(UNet(4, model_channels=8, channel_mult=(1, 2), attention_levels=(), heads=2, blocks=1, groups=4))


def test_aligning_brings_the_backbones_features_near_to_the_encoders(folder):
    encoder = VisionEncoder(str(folder), size=16)
    network = unet()
    alignment = REPA(network, encoder, weight=0.5, steps=100)
    assert "encoder" not in "".join(alignment.state_dict())
    image, x_t = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, 4, 8, 8)
    optimizer = torch.optim.Adam([*alignment.parameters(), *network.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        network(x_t, torch.full((4,), 0.5), Condition())
        loss = alignment({"image": image}, step=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert -0.5 <= losses[-1] < losses[0] - 0.2
    assert network.conv_in.weight.grad.abs().max() > 0, "the backbone learns, not the projection alone"
    assert all(part.grad is None for part in encoder.parameters())


def test_after_its_steps_it_is_nothing_but_finds_gradients(folder):
    network = unet()
    alignment = REPA(network, VisionEncoder(str(folder), size=16), steps=7)
    network(torch.randn(1, 4, 8, 8), torch.ones(1), Condition())
    loss = alignment({}, step=7)
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
    torch.testing.assert_close(alignment({"image": image}, step=0), -2 * cosine.mean())
    with pytest.raises(ValueError, match="which was not called; call it first"):
        alignment({"image": image}, step=0)
    backbone.deepest(features)
    with pytest.raises(ValueError, match="alignment needs images, or the features .* encode them with alignment=repa"):
        alignment({"moments": features}, step=0)


def test_features_of_the_batch_are_taken_and_the_encoder_is_not_called():
    class Silent(torch.nn.Module):
        width = 5

        def forward(self, image):
            raise AssertionError("the features are there")

    backbone = SimpleNamespace(deepest=torch.nn.Identity(), deepest_channels=3)
    alignment = REPA(backbone, Silent(), weight=2.0)
    features, wanted = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4).half()
    backbone.deepest(features)
    cosine = F.cosine_similarity(alignment.project(features), wanted.float(), dim=1)
    fields = {"patch_features": wanted, "image": torch.zeros(2, 3, 8, 8)}
    torch.testing.assert_close(alignment(fields, step=0), -2 * cosine.mean())


def test_one_option_chooses_it_and_it_fits_to_any_backbone(folder):
    options = ["alignment=repa", f"alignment.encoder.name={folder}", "alignment.encoder.size=16", "alignment.steps=7"]
    alignment = build(compose("train", ["experiment=txt2img", *options]).stage.diffusion.alignment)
    for channel_mult in ((1, 2), (1, 2, 3)):
        network = UNet(4, model_channels=8, channel_mult=channel_mult, attention_levels=(), heads=2, blocks=1, groups=4)
        assert network.deepest_channels == 8 * channel_mult[-1]
        aligned = alignment(network)
        network(torch.randn(2, 4, 8, 8), torch.ones(2), Condition())
        assert aligned.steps == 7
        assert aligned({"image": torch.rand(2, 3, 32, 32)}, step=6).isfinite()
    assert compose("train", ["experiment=txt2img"]).stage.diffusion.alignment is None
