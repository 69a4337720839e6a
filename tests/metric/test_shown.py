"""Metrics of models conditioned on the class of an image, or on an image: right for true drawings, wrong for others."""

import pytest
import torch

from ldm.data.sources.icons import Icons
from ldm.metric.label import LabelAccuracy
from ldm.metric.variation import VariationAccuracy
from tests.metric.measured import Measured


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Icons(
        tmp_path_factory.mktemp("icons"),
        count=5,
        colors={"red": "#ff0000", "blue": "#0000ff"},
        backgrounds={"white": "#ffffff", "black": "#000000"},
        size=32,
    )


def noisy(images):
    return (images + 0.3 * torch.randn_like(images)).clamp(-1, 1)


def test_label_accuracy_is_the_share_of_images_with_the_icon_of_their_class(source):
    metric, images = Measured(LabelAccuracy(source)), source.images(source.drawings)
    labels = torch.tensor([source.icons.index(drawing.icon) for drawing in source.drawings])
    metric.update(noisy(images), {"label": labels})
    assert metric.compute() == {"label_accuracy": 1.0}, "in any colour, on any background"
    metric.update(images, {"label": (labels + 1) % 5})
    assert metric.compute() == {"label_accuracy": 0.0}
    wrong = labels.clone()
    wrong[:5] = (wrong[:5] + 2) % 5
    metric.update(images, {"label": wrong})
    assert metric.compute()["label_accuracy"] == pytest.approx(1 - 5 / len(images))


def test_label_accuracy_of_images_without_regard_to_their_class_is_chance(source):
    metric, images = Measured(LabelAccuracy(source)), source.images(source.drawings)
    for label in range(5):
        metric.update(images, {"label": torch.full((len(images),), label)})
    assert metric.compute()["label_accuracy"] == pytest.approx(1 / 5)


@pytest.mark.parametrize("part", ["icon", "color", "background"])
def test_variation_accuracy_says_which_part_differs_from_the_image_shown(source, part):
    metric, drawings = Measured(VariationAccuracy(source)), source.drawings
    shown = source.images(drawings)
    names = [f"variation_{name}_accuracy" for name in ("icon", "color", "background")]
    metric.update(noisy(shown), {"image": shown})
    assert metric.compute() == dict.fromkeys(["variation_accuracy", *names], 1.0)
    values = {"icon": source.icons, "color": ["red", "blue"], "background": ["white", "black"]}[part]
    other = [d._replace(**{part: values[(values.index(getattr(d, part)) + 1) % len(values)]}) for d in drawings]
    metric.update(source.images(other), {"image": shown})
    expected = {name: float(name != f"variation_{part}_accuracy") for name in names}
    assert metric.compute() == {"variation_accuracy": 0.0, **expected}
