"""DINOv2's features and CLIP's embeddings: those of the networks themselves, and refused where they are of another kind."""

import pytest
import torch
from transformers import CLIPModel, Dinov2Config, Dinov2Model

from ldm.pretrained.vision import IMAGENET_MEAN, IMAGENET_STD
from ldm.pretrained.vision_features import CLIPFeatures, DINOv2Features
from tests.pretrained.test_clip_score import save_clip


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_dinov2s_feature_is_its_class_token(dinov2):
    images = torch.rand(3, 3, 28, 28) * 2 - 1
    extractor = DINOv2Features(str(dinov2), size=28)
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        theirs = Dinov2Model.from_pretrained(dinov2).eval()(((images + 1) / 2 - mean) / std)
    torch.testing.assert_close(extractor(images), theirs.last_hidden_state[:, 0], rtol=1e-6, atol=1e-6)
    assert (extractor.name, extractor.num_features) == ("dinov2_16", 16)


def test_clips_embedding_has_the_length_1(clip):
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    extractor = CLIPFeatures(str(clip), size=16)
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
    extractor.embedder.statistics = (mean.flatten().tolist(), std.flatten().tolist())
    with torch.no_grad():
        theirs = (
            CLIPModel.from_pretrained(clip).eval().get_image_features(((images + 1) / 2 - mean) / std).pooler_output
        )
    torch.testing.assert_close(extractor(images), theirs / theirs.norm(dim=1, keepdim=True), rtol=1e-6, atol=1e-6)
    assert (extractor.name, extractor.num_features) == ("clip_16", 8)


def test_signatures_tell_weights_and_sizes_apart(dinov2, clip, tmp_path):
    first = DINOv2Features(str(dinov2), size=28)
    assert first.signature == DINOv2Features(str(dinov2), size=28).signature
    assert first.signature != DINOv2Features(str(dinov2), size=14).signature
    network = Dinov2Model.from_pretrained(dinov2)
    network.layernorm.weight.data[0] += 1
    network.save_pretrained(tmp_path)
    assert first.signature != DINOv2Features(str(tmp_path), size=28).signature
    assert not first.train().embedder.network.training
    assert not any(weight.requires_grad for weight in first.parameters())


def test_networks_of_another_kind_or_size_are_refused(dinov2, clip):
    with pytest.raises(ValueError, match=r"metric.frechet_dinov2.extractor.name=.* is a clip_vision_model, no DINOv2"):
        DINOv2Features(str(clip), size=16)
    with pytest.raises(ValueError, match=r"metric.cmmd.extractor.name=.* is a dinov2, no CLIP"):
        CLIPFeatures(str(dinov2), size=28)
    with pytest.raises(ValueError, match="takes images of 16 pixels, got size=336"):
        CLIPFeatures(str(clip))
    with pytest.raises(ValueError, match="multiple of 14, got 20"):
        DINOv2Features(str(dinov2), size=20)


@pytest.mark.parametrize(
    ("load", "option"), [(DINOv2Features, "metric.frechet_dinov2.extractor"), (CLIPFeatures, "metric.cmmd.extractor")]
)
def test_a_model_that_is_not_there_names_the_option(load, option, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"set {option}.name=FOLDER"):
        load(str(tmp_path))
