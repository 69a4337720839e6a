import pytest
import torch

from ldm.data.sources.icons import Icons
from ldm.metric.caption import CaptionAccuracy
from ldm.metric.frechet import REAL, Frechet
from ldm.pretrained.efficientnet import EfficientNetLite0
from ldm.pretrained.extractor import Extractor


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
    metric = Frechet(Pixels())
    metric.update_reference(gaussians(0.0, 1.0))
    metric.update(gaussians(0.5, 2.0), {})
    # |mean difference|^2 + sum of squared differences of deviations, in three dimensions
    assert metric.compute()["pixels"] == pytest.approx(3 * 0.25 + 3 * 1.0, rel=0.1)
    metric.update(gaussians(0.0, 1.0), {})
    assert metric.compute()["pixels"] == pytest.approx(0.0, abs=0.02), "the reference stays, the images do not"


def test_frechet_reference_can_be_stored_and_shared():
    images, fakes = gaussians(0.0, 1.0), gaussians(0.3, 1.0)
    whole, parts = Frechet(Pixels()), [Frechet(Pixels()), Frechet(Pixels())]
    whole.update_reference(images)
    parts[0].update_reference(images[:1000])
    parts[1].update_reference(images[1000:])
    sums = {name: parts[0].reference()[name] + parts[1].reference()[name] for name in whole.reference()}
    restored = Frechet(Pixels())
    restored.set_reference(sums)
    for metric in (whole, restored):
        metric.update(fakes, {})
    assert whole.compute()["pixels"] == pytest.approx(restored.compute()["pixels"], rel=1e-6)


def test_the_sums_over_real_images_are_the_states_of_torchmetrics():
    """By their names in its state dict, which are all that is known of them here, and which this guards."""
    metric = Frechet(Pixels())
    images = gaussians(0.0, 1.0, count=50)
    metric.update_reference(images)
    metric.update(gaussians(0.5, 1.0, count=20), [])
    features = images[:, :, 0, 0].double()
    expected = {"sum": features.sum(0), "cov_sum": features.T @ features, "num_samples": torch.tensor(50)}
    assert {name.removeprefix(REAL) for name in metric.reference()} == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(metric.reference()[REAL + name], value)
    metric.compute()
    torch.testing.assert_close(metric.reference()[REAL + "sum"], expected["sum"])
    assert len(metric.distance.state_dict()) == 6, "the same three for generated images, and nothing else"


def test_efficientnet_distance_orders_damage(source):
    images = source.images(source.drawings)
    metric = Frechet(EfficientNetLite0(size=32))
    metric.update_reference(images)

    def distance(changed):
        metric.update(changed, {})
        return metric.compute()["frechet_efficientnet"]

    same = distance(images)
    slight, strong = (distance((images + level * torch.randn_like(images)).clamp(-1, 1)) for level in (0.1, 0.5))
    assert same < slight < strong
    assert same == pytest.approx(0.0, abs=0.01)


def test_caption_accuracy_of_true_drawings_is_one_and_of_others_by_part(source):
    metric = CaptionAccuracy(source)
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
    metric = CaptionAccuracy(source)
    with pytest.raises(ValueError, match="no drawing has the caption 'a photo'"):
        metric.update(torch.zeros(1, 3, 32, 32), {"caption": ["a photo"]})
    with pytest.raises(ValueError, match="use the same size"):
        metric.update(torch.zeros(1, 3, 16, 16), {"caption": [source.val[0].caption]})


BROKEN = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("extractor", [Pixels, lambda: EfficientNetLite0(size=32)], ids=["pixels", "efficientnet"])
def test_images_that_are_not_finite_are_refused(extractor, value):
    """LAPACK ends the process where it gets such numbers."""
    metric = Frechet(extractor())
    images = torch.rand(4, 3, 32, 32)
    metric.update_reference(images)
    images[1, 0, 0, 0] = value
    with pytest.raises(
        ValueError, match=r"1 of 4 generated images hold numbers that are not finite .* lower learning rate"
    ):
        metric.update(images, {})
    with pytest.raises(ValueError, match=r"1 of 4 real images hold numbers that are not finite .* look at data.val"):
        metric.update_reference(images)
    sums = metric.reference()
    sums["real_features_sum"] = sums["real_features_sum"] * value
    with pytest.raises(ValueError, match=r"stored sums over real images for .* delete the file reference-"):
        metric.set_reference(sums)


def test_features_that_are_not_finite_are_refused():
    class Overflowing(Pixels):
        def forward(self, images):
            return images[:, :, 0, 0] / 0

    with pytest.raises(ValueError, match=r"4 of 4 feature vectors of the images for pixels .* choose another metric"):
        Frechet(Overflowing()).update_reference(torch.ones(4, 3, 4, 4))


def test_caption_accuracy_refuses_images_that_are_not_finite(source):
    with pytest.raises(ValueError, match="1 of 1 generated images hold numbers that are not finite"):
        CaptionAccuracy(source).update(torch.full((1, 3, 32, 32), torch.nan), {"caption": [source.val[0].caption]})


def test_metrics_tell_how_many_images_they_need(source):
    assert CaptionAccuracy(source).least_images == 1
    metric = Frechet(Pixels())
    assert metric.least_images == 2
    metric.update_reference(gaussians(0.0, 1.0, count=2))
    metric.update(gaussians(0.0, 1.0, count=2), {})
    assert metric.compute()["pixels"] >= 0


def test_a_rank_without_images_computes_too():
    """Where there are fewer images than processes, and the reference is read: the sums of the others come with the reduction."""
    whole, alone = Frechet(Pixels()), Frechet(Pixels())
    whole.update_reference(gaussians(0.0, 1.0))
    whole.update(gaussians(0.5, 1.0), {})
    alone.set_reference(whole.reference())
    state = whole.distance.state_dict()
    alone.distance.load_state_dict(
        {name: value for name, value in state.items() if name.startswith("fake_")}, strict=False
    )
    assert alone.compute() == whole.compute()


@pytest.mark.parametrize("kind", ["frechet", "caption"])
def test_numbers_are_the_same_under_autocast_and_for_half_precision_images(source, kind):
    images = source.images(source.drawings)
    drawings = list(source.drawings)
    noisy = (images + 0.5 * torch.randn_like(images)).clamp(-1, 1).bfloat16()
    scores = []
    for enabled, fakes in ((False, noisy.float()), (True, noisy.float()), (True, noisy)):
        metric = CaptionAccuracy(source) if kind == "caption" else Frechet(EfficientNetLite0(size=32))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            metric.update_reference(images)
            metric.update(fakes, {"caption": [drawing.caption for drawing in drawings]})
            scores.append(metric.compute())
    assert scores[0] == scores[1] == scores[2]
