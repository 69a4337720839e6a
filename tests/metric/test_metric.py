import pytest
import torch

from ldm.data.sources.icons import Icons
from ldm.metric.caption import CaptionAccuracy
from ldm.metric.frechet import Frechet
from ldm.pretrained.efficientnet import EfficientNetLite0
from ldm.pretrained.extractor import Extractor
from tests.metric.measured import Measured


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
        size=32,
    )


def gaussians(mean, std, count=4000):
    return mean + std * torch.randn(count, 3, 4, 4)


def test_frechet_is_the_formula_for_gaussians():
    metric = Measured(Frechet(Pixels()), gaussians(0.0, 0.1))
    metric.update(gaussians(0.05, 0.2), {})
    # |mean difference|^2 + sum of squared differences of deviations, in three dimensions
    assert metric.compute()["frechet_pixels"] == pytest.approx(3 * 0.0025 + 3 * 0.01, rel=0.1)
    metric.update(gaussians(0.0, 0.1), {})
    assert metric.compute()["frechet_pixels"] == pytest.approx(0.0, abs=2e-4), "the reference stays, the images do not"


def test_efficientnet_distance_orders_damage(source):
    images = source.images(source.drawings)
    metric = Measured(Frechet(EfficientNetLite0(size=32)), images)

    def distance(changed):
        metric.update(changed, {})
        return metric.compute()["frechet_efficientnet"]

    same = distance(images)
    slight, strong = (distance((images + level * torch.randn_like(images)).clamp(-1, 1)) for level in (0.1, 0.5))
    assert same < slight < strong
    assert same == pytest.approx(0.0, abs=0.01)


def test_caption_accuracy_of_true_drawings_is_one_and_of_others_by_part(source):
    metric = Measured(CaptionAccuracy(source))
    drawings = source.val
    captions = [drawing.caption for drawing in drawings]
    metric.update(source.images(drawings), {"caption": captions})
    assert metric.compute() == {
        "caption_accuracy": 1.0,
        "icon_accuracy": 1.0,
        "color_accuracy": 1.0,
        "background_accuracy": 1.0,
    }

    swapped = [d._replace(color="blue" if d.color == "red" else "red") for d in drawings]
    metric.update(source.images(swapped), {"caption": captions})
    assert metric.compute() == {
        "caption_accuracy": 0.0,
        "icon_accuracy": 1.0,
        "color_accuracy": 0.0,
        "background_accuracy": 1.0,
    }

    metric.update(
        (source.images(drawings) + 0.3 * torch.randn(len(drawings), 3, 32, 32)).clamp(-1, 1), {"caption": captions}
    )
    assert metric.compute()["caption_accuracy"] == 1.0, "some noise does not change what is shown"


def test_caption_accuracy_refuses_foreign_captions_and_sides(source):
    metric = Measured(CaptionAccuracy(source))
    with pytest.raises(ValueError, match="no drawing has the caption 'a photo'"):
        metric.update(torch.zeros(1, 3, 32, 32), {"caption": ["a photo"]})
    with pytest.raises(ValueError, match="use the same size"):
        metric.update(torch.zeros(1, 3, 16, 16), {"caption": [source.val[0].caption]})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_refused(value):
    """LAPACK ends the process where it gets such numbers."""
    images = torch.rand(4, 3, 4, 4)
    metric = Measured(Frechet(Pixels()), images)
    images[1, 0, 0, 0] = value
    with pytest.raises(
        ValueError, match=r"1 of 4 generated images hold numbers that are not finite .* lower learning rate"
    ):
        metric.update(images, {})
    with pytest.raises(ValueError, match=r"1 of 4 real images hold numbers that are not finite .* look at data.val"):
        Measured(Frechet(Pixels()), images)


def test_features_that_are_not_finite_are_refused():
    class Overflowing(Pixels):
        def forward(self, images):
            return images[:, :, 0, 0] / 0

    with pytest.raises(ValueError, match=r"4 of 4 feature vectors of the images for pixels .* choose another metric"):
        Measured(Frechet(Overflowing()), torch.ones(4, 3, 4, 4))


def test_caption_accuracy_refuses_images_that_are_not_finite(source):
    with pytest.raises(ValueError, match="1 of 1 generated images hold numbers that are not finite"):
        Measured(CaptionAccuracy(source)).update(
            torch.full((1, 3, 32, 32), torch.nan), {"caption": [source.val[0].caption]}
        )


def test_metrics_tell_how_many_images_they_need(source):
    assert CaptionAccuracy(source).least_images == 1
    assert CaptionAccuracy(source).warning(1) is None
    metric = Frechet(Pixels())
    assert metric.least_images == 2
    assert metric.warning(4) is None
    assert "its rank is 2 at most" in metric.warning(3)
    measured = Measured(metric, gaussians(0.0, 0.1, count=2))
    measured.update(gaussians(0.0, 0.1, count=2), {})
    assert measured.compute()["frechet_pixels"] >= 0
    measured.update(gaussians(0.0, 0.1, count=1), {})
    with pytest.raises(ValueError, match="frechet_pixels needs at least 2 generated images, got 1"):
        measured.compute()


@pytest.mark.parametrize("kind", ["frechet", "caption"])
def test_numbers_are_the_same_under_autocast_and_for_half_precision_images(source, kind):
    images = source.images(source.drawings)
    drawings = list(source.drawings)
    noisy = (images + 0.5 * torch.randn_like(images)).clamp(-1, 1).bfloat16()
    scores = []
    for enabled, fakes in ((False, noisy.float()), (True, noisy.float()), (True, noisy)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            if kind == "caption":
                metric = Measured(CaptionAccuracy(source))
            else:
                metric = Measured(Frechet(EfficientNetLite0(size=32)), images)
            metric.update(fakes, {"caption": [drawing.caption for drawing in drawings]})
            scores.append(metric.compute())
    assert scores[0] == scores[1] == scores[2]
