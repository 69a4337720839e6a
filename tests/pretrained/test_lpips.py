import hashlib
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import lpips as torchmetrics_lpips

from ldm.config import build, compose
from ldm.pretrained import lpips
from ldm.pretrained.lpips import LINEAR, LPIPS, read_linear, vgg16_features
from ldm.training.run import train
from tests.guidance.models import with_and_without

MEAN, STD = torch.tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]], dtype=torch.float64)
"""What the authors' code subtracts from images in [-1, 1], and divides by."""


@pytest.fixture
def vgg16(tmp_path):
    """A file of random weights as torchvision's lie on disk; features have about the size that they have in the real one."""
    features = vgg16_features()
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    weights = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save({**weights, "classifier.0.weight": torch.ones(1)}, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def test_it_is_a_distance_whose_gradient_reaches_the_images(vgg16):
    distance = LPIPS(vgg16=vgg16)
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert distance(a, a).abs().max() == 0
    torch.testing.assert_close(distance(a, b), distance(b, a))
    assert (distance(a, b) > 0).all()
    b.requires_grad_(True)
    distance(a, b).sum().backward()
    assert b.grad.abs().max() > 0
    assert all(p.grad is None for p in distance.parameters())


def defined(distance, a, b):
    """Zhang et al., 2018, eq. 1, as version 0.1 of their code has it: pair by pair, layer by layer, in numpy and float64."""
    found = []
    for pair in zip(a.double(), b.double(), strict=True):
        total, taps = 0.0, []
        for image in pair:
            x = ((image - MEAN[:, None, None]) / STD[:, None, None])[None]
            taps.append(list(zhang_taps(distance.features, x)))
        for weight, x, y in zip(read_linear().values(), *taps, strict=True):
            x, y = (part / (np.sqrt((part**2).sum(0)) + 1e-10) for part in (x, y))
            total += (weight.double().numpy()[0] * (x - y) ** 2).sum(0).mean()
        found.append(total)
    return found


def zhang_taps(features, x):
    """Yield what comes before each pooling, and in the end: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
    for layer in features.double():
        if isinstance(layer, torch.nn.MaxPool2d):
            yield x[0].numpy()
        x = layer(x)
    yield x[0].numpy()


@torch.no_grad()
def test_it_is_the_published_definition(vgg16):
    """In float64, but for the constants, which are kept in float32; and in float32, in which it is measured, to 1e-6."""
    distance = LPIPS(vgg16=vgg16)
    a, b = torch.rand(2, 3, 3, 40, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    measured = distance(a, b)
    assert measured.dtype == distance(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    expected = defined(distance, a, b)
    assert distance.double()(a, b).tolist() == pytest.approx(expected, rel=1e-8)
    assert measured.tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_it_is_the_distance_of_torchmetrics(vgg16, monkeypatch):
    """Its own network takes VGG16 from torchvision, which is not needed here: it gets the same layers from us.

    It adds 1e-8 where the authors' code adds 1e-10 to the length of a vector of features, and within the root.
    """
    distance = LPIPS(vgg16=vgg16).double()
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda net, pretrained: distance.features)
    theirs = torchmetrics_lpips._LPIPS(net="vgg").double()
    a, b = torch.rand(2, 3, 3, 40, 32, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(distance(a, b), theirs(a, b).flatten(), rtol=1e-6, atol=0)


def test_the_learned_weights_are_those_that_the_papers_code_downloads():
    """By the digest that the code of Esser et al., 2021, and Rombach et al., 2022, checks."""
    data = files("torchmetrics").joinpath(LINEAR).read_bytes()
    assert hashlib.md5(data, usedforsecurity=False).hexdigest() == "d507d7349b931f0638a25a48a722f98a"
    weights = read_linear()
    assert [tuple(value.shape) for value in weights.values()] == [(1, n, 1, 1) for n in (64, 128, 256, 512, 512)]
    assert all((value >= 0).all() for value in weights.values())


def test_images_are_guided_towards_likeness(vgg16, tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "wanted.png")
    likeness = ["guidance=low_resolution", f"guidance.score.image.path={tmp_path / 'wanted.png'}"]
    distance = f"+guidance.score.distance={{_target_:ldm.pretrained.lpips.LPIPS,vgg16:{vgg16}}}"
    options = [*likeness, "guidance.score.image.size=16", "guidance.score.std=0.1", "guidance.scale=16", distance]
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


def test_missing_weights_are_said(tmp_path, vgg16, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere.pth; LPIPS needs vgg16"):
        LPIPS(vgg16=tmp_path / "nowhere.pth")
    monkeypatch.setattr(lpips, "LINEAR", "functional/nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"the installed torchmetrics has no functional/nowhere.pth"):
        LPIPS(vgg16=vgg16)


def test_weights_are_taken_from_the_cache_of_torch(tmp_path, vgg16, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("they are there"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    vgg16.rename(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth")
    image = torch.rand(2, 3, 32, 32)
    assert LPIPS()(image, 1 - image).min() > 0


def test_weights_that_are_not_there_are_downloaded_once_and_checked(tmp_path, vgg16, monkeypatch):
    asked = []

    def download(url, file, *, hash_prefix):
        asked.append((url, hash_prefix))
        vgg16.rename(file)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    LPIPS()
    LPIPS()
    ((url, prefix),) = asked
    assert url.endswith(f"/vgg16-{prefix}.pth")
    assert prefix == "397923af"


@pytest.mark.parametrize("error", [OSError("no connection"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded_are_said_before_anything_is_written(tmp_path, monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    places = [f"paths.data_dir={tmp_path / 'data'}", f"paths.runs_dir={tmp_path / 'runs'}"]
    config = compose("train", ["experiment=autoencoder", "data=icons", "trainer=cpu", "data.size=32", *places])
    place = re.escape(str(tmp_path / "hub" / "checkpoints"))
    said = f"LPIPS needs vgg16-397923af.pth in torch's cache, {place}, .* perceptual.vgg16=FILE, .* perceptual=none"
    with pytest.raises(Exception, match=said):
        train(config)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "runs").exists()


def test_without_it_photographs_are_trained_only_where_that_is_said():
    loss = compose("train", ["experiment=autoencoder", "perceptual=none"]).stage.autoencoder.loss
    assert loss.perceptual is None
    for name in ("autoencoder", "finetune_decoder", "txt2img_shards"):
        loss = compose("train", [f"experiment={name}"]).stage.autoencoder.loss
        assert loss.perceptual._target_ == "ldm.pretrained.lpips.LPIPS"
