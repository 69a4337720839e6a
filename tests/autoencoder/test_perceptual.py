import pytest
import torch
from PIL import Image

from ldm.autoencoder.perceptual import LPIPS, vgg16_features
from ldm.config import build, compose
from tests.guidance.models import with_and_without


@pytest.fixture
def files(tmp_path):
    features = vgg16_features()
    torch.save(
        {f"features.{k}": v for k, v in features.state_dict().items()} | {"classifier.0.weight": torch.ones(1)},
        tmp_path / "vgg16.pth",
    )
    widths = (64, 128, 256, 512, 512)
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(widths)}, tmp_path / "lin.pth")
    return {"vgg16": tmp_path / "vgg16.pth", "linear": tmp_path / "lin.pth"}


def test_is_a_distance_whose_gradient_reaches_the_images(files):
    distance = LPIPS(**files)
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert distance(a, a).abs().max() == 0
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert (distance(a, b) > 0).all()
    b.requires_grad_(True)
    distance(a, b).sum().backward()
    assert b.grad.abs().max() > 0
    assert all(p.grad is None for p in distance.parameters())


def test_images_are_guided_towards_likeness(files, tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "wanted.png")
    weights = ",".join(f"{name}:{file}" for name, file in files.items())
    likeness = ["guidance=likeness", f"guidance.score.image.path={tmp_path / 'wanted.png'}"]
    distance = f"+guidance.score.distance={{_target_:ldm.autoencoder.perceptual.LPIPS,{weights}}}"
    options = [*likeness, "guidance.score.image.size=16", "guidance.scale=4", distance]
    guidance = build(compose("sample", ["ckpt=x", *options]).guidance)
    assert isinstance(guidance.score.distance, LPIPS)
    images = with_and_without(guidance, [""] * 2, size=32)
    guided, free = (guidance.score.log_likelihood(part, [""] * 2) for part in images)
    assert (guided > 0.8 * free).all()


def test_layers_stand_where_torchvision_has_them():
    features = vgg16_features()
    convolutions = [i for i, layer in enumerate(features) if isinstance(layer, torch.nn.Conv2d)]
    assert convolutions == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert sum(p.numel() for p in features.parameters()) == 14_714_688


def test_missing_weights_are_said(tmp_path, files):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere.pth; LPIPS needs vgg16"):
        LPIPS(vgg16=tmp_path / "nowhere.pth", linear=files["linear"])
