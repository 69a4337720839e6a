"""Whether what is drawn stands where, and has the colours, that were asked for."""

import pytest
import torch

from ldm.data.sources.icon_scenes import IconScenes
from ldm.metric.placement import DepthIoU, LayoutIcons, LayoutIoU, RegionColors
from tests.data.sources.test_icon_scenes import BACKGROUNDS
from tests.data.sources.test_icon_scenes import COLORS as ICON_COLORS
from tests.metric.measured import Measured

COLORS = ["#ffffff", "#ff0000", "#0000ff"]


def canvas(count=1, size=16):
    return torch.ones(count, 3, size, size)


def paint(image, x0, y0, x1, y1, color=(-1.0, -1.0, 1.0)):
    image[:, y0:y1, x0:x1] = torch.tensor(color)[:, None, None]


def test_what_fills_its_box_has_an_overlap_of_one_and_what_is_not_there_of_none():
    images = canvas(3)
    paint(images[0], 4, 4, 8, 12)
    paint(images[1], 4, 4, 6, 12)
    boxes = torch.tensor([[[3, 0.25, 0.25, 0.5, 0.75], [-1, 0, 0, 0, 0]]] * 3)
    metric = LayoutIoU(COLORS[1:])
    assert metric.measure(images, {"boxes": boxes})["layout_iou"].tolist() == [1.0, 0.5, 0.0]
    measured = Measured(metric)
    measured.update(images, {"boxes": boxes})
    assert measured.compute() == {"layout_iou": 0.5}


def test_the_overlap_is_the_mean_over_boxes_and_a_shift_costs():
    images = canvas()
    paint(images[0], 0, 0, 4, 4)
    paint(images[0], 10, 8, 14, 12)
    boxes = torch.tensor([[[1, 0, 0, 0.25, 0.25], [2, 0.5, 0.5, 0.75, 0.75]]])
    (iou,) = LayoutIoU(COLORS[1:]).measure(images, {"boxes": boxes})["layout_iou"].tolist()
    assert iou == pytest.approx((1 + (2 * 4) / (4 * 4 + 4 * 4 - 2 * 4)) / 2)


def test_images_without_boxes_do_not_count():
    metric = Measured(LayoutIoU(COLORS[1:]))
    metric.update(canvas(), {"boxes": torch.full((1, 2, 5), -1.0)})
    assert metric.compute() == {"layout_iou": 0.0}


def test_regions_are_judged_by_the_nearest_color():
    images = canvas()
    paint(images[0], 0, 0, 8, 16, (0.8, -0.9, -0.7))
    classes = torch.zeros(1, 16, 16, dtype=torch.long)
    classes[:, :, :8] = 1
    metric = RegionColors(COLORS)
    assert metric.measure(images, {"segmentation": classes})["region_color_accuracy"].tolist() == [1.0]
    classes[:, :4, :8] = 2
    assert metric.measure(images, {"segmentation": classes})["region_color_accuracy"].tolist() == [0.875]
    classes[:, 4:] = 7  # a class without a colour
    assert metric.measure(images, {"segmentation": classes})["region_color_accuracy"].tolist() == [0.5]
    with pytest.raises(ValueError, match="give two or more"):
        RegionColors(["#ffffff"])


def test_classes_without_a_color_do_not_count_wherever_they_are():
    images = canvas()
    paint(images[0], 0, 0, 8, 16, (1.0, -1.0, -1.0))
    classes = torch.zeros(1, 16, 16, dtype=torch.long)
    classes[:, :, :8] = 1
    metric = RegionColors(COLORS[1:], first_class=1)  # class 0 is the canvas
    assert metric.measure(images, {"segmentation": classes})["region_color_accuracy"].tolist() == [1.0]
    classes[:, 8:, :8] = 2
    assert metric.measure(images, {"segmentation": classes})["region_color_accuracy"].tolist() == [0.5]
    assert metric.measure(images, {"segmentation": torch.zeros_like(classes)})["region_color_accuracy"].tolist() == []
    with pytest.raises(ValueError, match="metric.first_class=-1 cannot be"):
        RegionColors(COLORS, first_class=-1)


def test_unlabelled_pixels_do_not_count():
    images = canvas(2)
    classes = torch.full((2, 16, 16), 255)
    classes[0, :8] = 1  # red, and the canvas is white
    classes[0, :2] = 0
    metric = Measured(RegionColors(COLORS))
    metric.update(images, {"segmentation": classes})
    assert metric.compute() == {"region_color_accuracy": 0.25}, "of 8 rows with a class; the second image has none"


def test_what_is_drawn_on_is_compared_with_what_is_near():
    images = canvas(3)
    depth = torch.full((3, 1, 16, 16), -1.0)
    depth[:2, :, 4:8, 4:8] = 0.5
    paint(images[0], 4, 4, 8, 8)
    paint(images[1], 4, 4, 8, 12)
    values = DepthIoU(COLORS[1:]).measure(images, {"depth": depth})["depth_iou"]
    assert values.tolist() == [1.0, 0.5], "a flat map does not count"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The source of some scenes, and their fields."""
    folder = tmp_path_factory.mktemp("scenes")
    source = IconScenes(folder, count=16, colors=ICON_COLORS, backgrounds=BACKGROUNDS, size=48, scenes=1, val_scenes=24)
    return source, source.truth(source.val)


@pytest.mark.parametrize(
    ("kind", "field", "least", "most"),
    [
        (RegionColors, "segmentation", 0.9, 0.4),
        (LayoutIoU, "boxes", 0.95, 0.4),
        (LayoutIcons, "boxes", 0.9, 0.2),
        (DepthIoU, "depth", 0.9, 0.4),
    ],
)
def test_true_scenes_are_right_and_those_of_other_conditions_are_not(truth, kind, field, least, most):
    source, fields = truth
    colors = list(ICON_COLORS.values())
    metric = {
        RegionColors: lambda: RegionColors(colors, first_class=1),
        LayoutIcons: lambda: LayoutIcons(source, colors),
    }.get(kind, lambda: kind(colors))()
    right, wrong = (
        metric.measure(fields["image"], {field: fields[field].roll(shift, 0)})[metric.names[0]].mean()
        for shift in (0, 1)
    )
    assert right > least
    assert wrong < most
