import sys

import pytest
import torch

from ldm.data.icons import Icons
from ldm.metric.caption import CaptionAccuracy
from ldm.metric.extractor import EfficientNetLite0, Extractor, Inception
from ldm.metric.frechet import Frechet


class Pixels(Extractor):
    """Features that are a few pixels, whose Gaussian is known."""

    name = "pixels"
    signature = "pixels"
    num_features = 3

    def forward(self, images):
        return images[:, :, 0, 0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Icons(
        tmp_path_factory.mktemp("icons"),
        count=8,
        colors={"red": "#ff0000", "blue": "#0000ff"},
        backgrounds={"white": "#ffffff", "black": "#000000"},
        side=32,
    )


def gaussians(mean, deviation, count=4000):
    return mean + deviation * torch.randn(count, 3, 4, 4)


def test_frechet_is_the_formula_for_gaussians():
    metric = Frechet(Pixels())
    metric.refer(gaussians(0.0, 1.0))
    metric.update(gaussians(0.5, 2.0), [])
    # |mean difference|^2 + sum of squared differences of deviations, in three dimensions
    assert metric.compute()["pixels"] == pytest.approx(3 * 0.25 + 3 * 1.0, rel=0.1)
    metric.update(gaussians(0.0, 1.0), [])
    assert metric.compute()["pixels"] == pytest.approx(0.0, abs=0.02), "the reference stays, the images do not"


def test_frechet_reference_can_be_stored_and_shared():
    images, fakes = gaussians(0.0, 1.0), gaussians(0.3, 1.0)
    whole, parts = Frechet(Pixels()), [Frechet(Pixels()), Frechet(Pixels())]
    whole.refer(images)
    parts[0].refer(images[:1000])
    parts[1].refer(images[1000:])
    sums = {name: parts[0].reference()[name] + parts[1].reference()[name] for name in whole.reference()}
    restored = Frechet(Pixels())
    restored.set_reference(sums)
    for metric in (whole, restored):
        metric.update(fakes, [])
    assert whole.compute()["pixels"] == pytest.approx(restored.compute()["pixels"], rel=1e-6)


def test_efficientnet_distance_orders_damage(source):
    images = source.images(source.drawings)
    metric = Frechet(EfficientNetLite0(side=32))
    metric.refer(images)

    def distance(changed):
        metric.update(changed, [])
        return metric.compute()["frechet_efficientnet"]

    same = distance(images)
    slight, strong = (distance((images + level * torch.randn_like(images)).clamp(-1, 1)) for level in (0.1, 0.5))
    assert same < slight < strong
    assert same == pytest.approx(0.0, abs=0.01)


def test_offline_distance_is_never_called_fid():
    assert EfficientNetLite0.name != Inception.name == "fid"


def test_inception_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(FileNotFoundError, match="no Inception weights at"):
        Inception(weights=tmp_path / "none.pth")
    (tmp_path / "some.pth").touch()
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[fid\]', or choose metric=offline"):
        Inception(weights=tmp_path / "some.pth")


def test_caption_accuracy_of_true_drawings_is_one_and_of_others_by_part(source):
    metric = CaptionAccuracy(source)
    drawings = source.val
    captions = [drawing.caption for drawing in drawings]
    metric.update(source.images(drawings), captions)
    assert metric.compute() == {
        "caption_accuracy": 1.0,
        "icon_accuracy": 1.0,
        "color_accuracy": 1.0,
        "background_accuracy": 1.0,
    }

    swapped = [d._replace(color="blue" if d.color == "red" else "red") for d in drawings]
    metric.update(source.images(swapped), captions)
    assert metric.compute() == {
        "caption_accuracy": 0.0,
        "icon_accuracy": 1.0,
        "color_accuracy": 0.0,
        "background_accuracy": 1.0,
    }

    metric.update((source.images(drawings) + 0.3 * torch.randn(len(drawings), 3, 32, 32)).clamp(-1, 1), captions)
    assert metric.compute()["caption_accuracy"] == 1.0, "some noise does not change what is shown"


def test_caption_accuracy_refuses_foreign_captions_and_sides(source):
    metric = CaptionAccuracy(source)
    with pytest.raises(ValueError, match="no drawing has the caption 'a photo'"):
        metric.update(torch.zeros(1, 3, 32, 32), ["a photo"])
    with pytest.raises(ValueError, match="use the same side"):
        metric.update(torch.zeros(1, 3, 16, 16), [source.val[0].caption])
