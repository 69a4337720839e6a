"""What stands in images of icons is found where the truth says, and in its colour."""

import pytest
import torch

from ldm.data.sources.icon_scenes import IconScenes
from ldm.metric.regions import bounding_boxes, box_iou, canvas_colors, foreground, found_boxes
from tests.deterministic import Deterministic

COLORS = {"red": "#e6194b", "yellow": "#ffe119", "green": "#2ca02c", "blue": "#1f5fff"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return IconScenes(
        folder, count=12, colors=COLORS, backgrounds={"white": "#ffffff", "gray": "#808080"}, size=[48, 64], scenes=60,
        val_scenes=4, val_fraction=0.3, objects=[1, 3],
    )  # fmt: skip


def nearest_colors(images, regions, palette):
    """The number of the colour of a palette `(P, 3)` that is nearest to the mean colour of each region `(B, H, W)`."""
    inside = regions[:, None].to(images.dtype)
    return torch.cdist((images * inside).sum((2, 3)) / inside.sum((2, 3)), palette).argmin(1)


def palette(source):
    return torch.tensor(list(source.renderer.colors.values())) / 127.5 - 1


def test_the_truth_is_found_in_the_pictures_of_scenes(source):
    scenes = source.train
    fields = source.truth(scenes)
    canvas = canvas_colors(fields["image"])
    expected = torch.tensor([source.renderer.backgrounds[scene.canvas] for scene in scenes]) / 127.5 - 1
    assert torch.allclose(canvas, expected, atol=0.01)
    seen = foreground(fields["image"], canvas, palette(source))
    overlaps = []
    for row, scene in enumerate(scenes):
        boxes = fields["boxes"][row, : len(scene.objects), 1:]
        found = found_boxes(seen[row], boxes)
        assert (found - boxes).abs().max() <= 1.01 / 48, "to a pixel, for edges are smooth"
        overlaps += box_iou(found, boxes).tolist()
        empty = found_boxes(torch.zeros(48, 64, dtype=torch.bool), boxes)
        assert not box_iou(empty, boxes).any()
        labels = fields["segmentation"][row]
        classes = [number for number in labels.unique().tolist() if number]
        assert len(classes) == len(scene.objects)
        regions = torch.stack([labels == number for number in classes])
        image = fields["image"][row : row + 1].expand(len(classes), -1, -1, -1)
        assert nearest_colors(image, regions, palette(source)).tolist() == [n - 1 for n in classes]
    assert min(overlaps) > 0.75
    assert sum(overlaps) / len(overlaps) > 0.95


def test_boxes_and_what_two_have_in_common():
    masks = torch.zeros(3, 8, 10, dtype=torch.bool)
    masks[0, 2:4, 5:9] = True
    masks[1] = True
    found = bounding_boxes(masks)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.25, 0.9, 0.5], [0, 0, 1, 1], [0, 0, 0, 0]]))
    first = torch.tensor([[0.0, 0.0, 0.5, 1.0]] * 3)
    second = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.0, 0.75, 1.0], [0.6, 0.0, 0.9, 1.0]])
    torch.testing.assert_close(box_iou(first, second), torch.tensor([1.0, 1 / 3, 0.0]))


def test_an_icon_at_another_place_or_in_another_colour_is_found_out(source):
    scene = source.train[0]
    thing = scene.objects[0]
    other = next(name for name in COLORS if name != thing.color)
    moved = scene._replace(objects=(thing._replace(left=(thing.left + 20) % 40, top=1, color=other),))
    asked = source.truth([scene._replace(objects=(thing,))])
    made = source.truth([moved])
    seen = foreground(made["image"], canvas_colors(made["image"]), palette(source))[0]
    assert box_iou(found_boxes(seen, asked["boxes"][0, :, 1:]), asked["boxes"][0, :, 1:]) < 0.6
    region = made["segmentation"] > 0
    color = nearest_colors(made["image"], region, palette(source))
    assert list(COLORS)[int(color)] == other


def test_the_canvas_is_the_median_of_the_edges_and_found_deterministically():
    images = torch.rand(3, 3, 5, 6)
    edges = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], 2)
    expected = edges.median(2).values
    with Deterministic():
        assert torch.equal(canvas_colors(images), expected)
