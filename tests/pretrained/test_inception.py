"""The Inception network and the ways to resize for it, compared with those of torch-fidelity, pytorch-fid and clean-fid."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldm.files.picture import from_levels
from ldm.metric.frechet import Frechet
from ldm.pretrained.efficientnet import EfficientNetLite0
from ldm.pretrained.inception import Inception, SpatialInception
from ldm.pretrained.resizing import SIDE, CleanBicubic, PyTorchBilinear, TensorFlowBilinear
from tests.metric import torch_fidelity_numbers as oracle
from tests.second_device import There, second_device

NUMBERS = json.loads(oracle.FILE.read_text())
IMAGES = oracle.images()


@pytest.fixture
def weights(inception_weights):
    return inception_weights


def levels_of(images):
    """Return images as the network gets them on the scale of 8-bit levels."""
    return images * 128 + 128


def test_features_and_logits_are_torch_fidelitys(weights):
    extractor = Inception(weights=weights)
    features = extractor(from_levels(IMAGES[0]))
    torch.testing.assert_close(features[:, ::32], torch.tensor(NUMBERS["features"]), rtol=1e-4, atol=1e-5)
    logits = extractor.class_logits(features)
    torch.testing.assert_close(logits[:, ::16], torch.tensor(NUMBERS["logits"]), rtol=1e-4, atol=1e-4)
    assert not extractor.train().network.training
    assert not any(weight.requires_grad for weight in extractor.parameters())


def test_in_float64_features_logits_and_places_are_torch_fidelitys_to_rounding(weights):
    """The last of them are TensorFlow's mixed_6, whose module is called Mixed_6d there."""
    extractor, exact = Inception(weights=weights), NUMBERS["exact"]
    image = extractor.resize(oracle.image()).double()
    features = extractor.double().network(image)
    found = {"features": features[:, ::32], "logits": extractor.class_logits(features)[:, ::16]}
    found["maps"] = extractor.network.maps(image)[:, :7, ::8, ::8]
    for name, values in found.items():
        expected = torch.tensor(exact[name], dtype=torch.float64)
        torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)


def test_features_of_sfid_are_the_first_channels_of_a_branch_of_mixed_6(weights):
    """Of TensorFlow's mixed_6, whose module here is called Mixed_6d, row by row as TensorFlow stores maps."""
    extractor, plain = SpatialInception(weights=weights), Inception(weights=weights)
    seen = []
    plain.network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = from_levels(IMAGES[0])
    plain(images)
    found = extractor(images)
    assert found.shape == (len(images), extractor.num_features)
    assert torch.equal(found.view(-1, 17, 17, 7), seen[0].permute(0, 2, 3, 1)[..., :7])
    assert extractor.signature != plain.signature
    assert Frechet(extractor).names == ["sfid"]
    assert Frechet(plain).names == ["fid"]


def test_resizing_as_tensorflow_is_torch_fidelitys():
    for images, expected in zip(IMAGES, NUMBERS["resized"], strict=True):
        found = levels_of(TensorFlowBilinear()(images))[:, :, ::37, ::41].flatten()
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-4)
    same = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    assert torch.equal(levels_of(TensorFlowBilinear()(same)), same.float())


@pytest.mark.parametrize("images", IMAGES, ids=["larger", "smaller"])
def test_resizing_as_clean_fid_is_pillows_of_each_channel_in_float32(images):
    """Parmar et al., 2022: bicubic of Pillow, which smooths, on float32, clipped and not rounded."""
    expected = [
        [
            np.asarray(Image.fromarray(channel.astype(np.float32)).resize((SIDE, SIDE), Image.BICUBIC)).clip(0, 255)
            for channel in image
        ]
        for image in images.numpy()
    ]
    found = levels_of(CleanBicubic()(images)).numpy()
    np.testing.assert_allclose(found, np.array(expected), rtol=0, atol=2e-4)
    assert (found != found.round()).any()


def test_resizing_as_pytorch_fid_is_torchs_on_images_in_0_1():
    for images in IMAGES:
        expected = 2 * F.interpolate(images.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        assert torch.equal(PyTorchBilinear()(images), expected)
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert PyTorchBilinear()(white).amin() == pytest.approx(1.0, abs=1e-6)
    assert TensorFlowBilinear()(white).amax() == 127 / 128


@pytest.mark.parametrize("way", [TensorFlowBilinear, PyTorchBilinear, CleanBicubic])
def test_images_of_another_device_are_resized_there(way):
    with second_device() as device:
        found = way()(IMAGES[0].to(device))
        assert isinstance(found, There)
        there = found.cpu()
    torch.testing.assert_close(there, way()(IMAGES[0]))


def test_each_way_to_resize_has_another_signature_and_gives_other_features(weights):
    extractors = [Inception(weights=weights, resize=way) for way in (None, PyTorchBilinear(), CleanBicubic())]
    assert len({one.signature for one in extractors}) == 3
    first, *others = (one(from_levels(IMAGES[0])) for one in extractors)
    assert all((features - first).abs().max() > 1e-2 for features in others)


def test_logits_of_efficientnet_are_those_of_its_own_network():
    extractor = EfficientNetLite0(size=32)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(extractor.class_logits(extractor(images)), extractor.network(images))
