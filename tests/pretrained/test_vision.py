import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from ldm.pretrained.vision import VisionEncoder

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}


def save_vision(folder, kind):
    """A vision transformer of few random weights, as the hub's lie on disk."""
    network = {
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SIZES, image_size=24)),
        "vit": lambda: ViTModel(ViTConfig(**SIZES, image_size=24), add_pooling_layer=False),
    }[kind]()
    network.save_pretrained(folder)
    return folder


@pytest.fixture(params=["dinov2", "vit"])
def folder(request, tmp_path):
    return save_vision(tmp_path, request.param)


def test_features_have_their_places(folder):
    """A change in one corner of the image changes the features of that corner most."""
    encoder = VisionEncoder(str(folder), size=32)
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
    plain = VisionEncoder(str(folder), size=16)(image)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    encoder = VisionEncoder(str(folder), size=16)
    assert encoder.statistics == ([0.5] * 3, [0.5] * 3)
    assert not torch.allclose(encoder(image), plain)


def test_encoders_that_do_not_fit(folder):
    with pytest.raises(ValueError, match="side 30 is not a multiple of the patches"):
        VisionEncoder(str(folder), size=30)
    with pytest.raises(FileNotFoundError, match="no vision encoder '/nowhere'"):
        VisionEncoder("/nowhere")


def test_features_are_averaged_over_patches(folder):
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    features = VisionEncoder(str(folder), size=32)(image)
    for patches in (8, 4, 1):
        encoder = VisionEncoder(str(folder), size=32, patches=patches)
        assert encoder.count == patches
        torch.testing.assert_close(encoder(image), F.adaptive_avg_pool2d(features, patches))
    with pytest.raises(ValueError, match=r"patches=3 cannot be: .* gives 8 patches along .* give one of 1, 2, 4, 8"):
        VisionEncoder(str(folder), size=32, patches=3)
    with pytest.raises(ValueError, match="encoder.patches=0 cannot be"):
        VisionEncoder(str(folder), size=32, patches=0)


def test_the_hash_is_of_what_is_computed(folder, tmp_path):
    """Not of the name: a copy of the same weights is the same encoder."""
    first = VisionEncoder(str(folder), size=16)
    first.network.save_pretrained(tmp_path / "copy")
    assert VisionEncoder(str(tmp_path / "copy"), size=16).features_hash == first.features_hash
    assert VisionEncoder(str(folder), size=16, patches=4).features_hash == first.features_hash, "all patches there are"
    others = [VisionEncoder(str(folder), size=32), VisionEncoder(str(folder), size=16, patches=2)]
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    others.append(VisionEncoder(str(folder), size=16))
    with torch.no_grad():
        next(first.network.parameters()).add_(1.0)
    assert len({one.features_hash for one in (VisionEncoder(str(tmp_path / "copy"), size=16), first, *others)}) == 5
