"""Pictures of what images are made for."""

import pytest
import torch

from ldm.conditioner.composite import Composite
from ldm.conditioner.depth import DepthConditioner
from ldm.conditioner.in_pictures import CANVAS, HOLE, class_colors, in_pictures
from ldm.conditioner.inpainting import InpaintingConditioner
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.layout import LayoutConditioner
from ldm.conditioner.low_resolution import LowResolutionConditioner
from ldm.conditioner.segmentation import SegmentationConditioner
from tests.conditioner.small import LAYOUT

SIZE = (8, 12)


def test_classes_have_the_colours_of_pascal_voc_and_no_two_of_a_byte_the_same():
    levels = ((class_colors(torch.arange(256)) + 1) * 127.5).round().int().tolist()
    assert levels[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert levels[9] == [192, 0, 0]
    assert levels[255] == [224, 224, 192]
    assert len(set(map(tuple, levels))) == 256


def test_only_conditions_of_the_model_are_drawn_and_what_cannot_be_seen_is_not():
    fields = {"label": torch.tensor([1, 2]), "image": torch.rand(2, 3, *SIZE), "depth": torch.rand(2, 1, *SIZE)}
    assert in_pictures(fields, 2, LabelConditioner(3, width=4), SIZE).shape == (2, 3, 0, 12)
    depth = in_pictures(fields, 2, DepthConditioner(), SIZE)
    assert torch.equal(depth, fields["depth"].expand(-1, 3, -1, -1)), "an image that a metric reads is no condition"


def test_maps_lie_below_one_another_each_in_its_place():
    """An image of low resolution is enlarged without smoothing; a class has one colour wherever it is."""
    fields = {
        "segmentation": torch.randint(0, 5, (2, *SIZE), generator=torch.Generator().manual_seed(0)),
        "low_resolution": torch.rand(2, 3, 2, 3),
    }
    parts = [SegmentationConditioner(5, concat_channels=1), LowResolutionConditioner(4)]
    small, classes = in_pictures(fields, 2, Composite(parts, concat_channels=4), SIZE).split(8, dim=2)
    assert torch.equal(small, fields["low_resolution"].repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert torch.equal(classes.movedim(1, -1), class_colors(fields["segmentation"]))


def test_a_masked_image_has_a_hole_of_a_colour_of_its_own():
    image, mask = torch.rand(1, 3, *SIZE), torch.zeros(1, 1, *SIZE)
    mask[..., 2:5, 3:7] = 1
    drawn = in_pictures({"image": image, "mask": mask}, 1, InpaintingConditioner(concat_channels=5), SIZE)
    hole = mask[0, 0] > 0
    assert drawn[0][:, hole].unique(dim=1).flatten().tolist() == list(HOLE)
    assert torch.equal(drawn[0][:, ~hole], image[0][:, ~hole])


def test_boxes_are_outlines_in_the_colours_of_their_classes():
    boxes = torch.tensor([[[0, 0.25, 0.25, 0.75, 1.0], [-1, 0, 0, 0, 0]], [[7, 0, 0, 1, 1], [3, -0.5, 0.5, 0.5, 2]]])
    first, second = in_pictures({"boxes": boxes}, 2, LayoutConditioner(**LAYOUT), SIZE)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[2:8, 3:9] = True
    line = inside.clone()
    line[3:7, 4:8] = False
    assert torch.equal(first[:, line].T, class_colors(torch.tensor(1)).expand(int(line.sum()), 3))
    assert (first[:, ~line] == CANVAS).all()
    assert torch.equal(second[:, 0, 0], class_colors(torch.tensor(8)))
    assert torch.equal(second[:, 4, 3], class_colors(torch.tensor(4)))
    assert torch.equal(second[:, 7, 2], class_colors(torch.tensor(8))), "the first box lies above the others"


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.5, 0.5], [0.99, 0.0, 1.0, 0.01]])
def test_a_box_of_less_than_a_pixel_is_no_error(box):
    assert in_pictures({"boxes": torch.tensor([[[0.0, *box]]])}, 1, LayoutConditioner(**LAYOUT), SIZE).shape[2] == 8
