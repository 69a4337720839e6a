"""Metrics of single images against their definitions, written as plain loops over pixels in float64."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from PIL import ImageColor

from ldm.data.sources.icon_scenes import IconScenes
from ldm.data.sources.icons import Icons
from ldm.metric.caption import CaptionAccuracy
from ldm.metric.fidelity import InpaintingFidelity, SuperResolutionFidelity
from ldm.metric.label import LabelAccuracy
from ldm.metric.placement import SHAPE_SIDE, DepthIoU, LayoutIcons, LayoutIoU, RegionColors
from ldm.metric.variation import VariationAccuracy

COLORS = {"red": "#e6194b", "yellow": "#ffe119", "green": "#2ca02c", "blue": "#1f5fff"}
BACKGROUNDS = {"white": "#ffffff", "gray": "#808080"}
PALETTE = [np.array(ImageColor.getrgb(color)) / 127.5 - 1 for color in COLORS.values()]


def pixels(images):
    """Images `(B, 3, H, W)` as arrays `(B, H, W, 3)` of float64."""
    return images.double().permute(0, 2, 3, 1).numpy()


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.double().tolist() == pytest.approx(expected[name], abs=1e-6), name


# the nearest drawing


@pytest.fixture(scope="module")
def icons(tmp_path_factory):
    colors = {name: COLORS[name] for name in ("red", "yellow")}
    return Icons(tmp_path_factory.mktemp("icons"), count=4, colors=colors, backgrounds=BACKGROUNDS, size=16)


def blended(icons):
    """Images between two drawings each, with noise: some are nearer to the first, some to the second, some to a third."""
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randint(len(icons.drawings), (24,), generator=rng).tolist() for _ in "ab")
    true = icons.images(icons.drawings)
    share = torch.rand(24, 1, 1, 1, generator=rng)
    images = share * true[first] + (1 - share) * true[second] + 0.5 * torch.randn(24, 3, 16, 16, generator=rng)
    return images.clamp(-1, 1), [icons.drawings[number] for number in first]


def nearest(icons, images):
    """The nearest drawing of each image, by the sum of squared differences."""
    true = pixels(icons.images(icons.drawings))
    return [icons.drawings[min(range(len(true)), key=lambda n: ((true[n] - one) ** 2).sum())] for one in pixels(images)]


def test_accuracies_of_captions_labels_and_variations_are_those_of_the_nearest_drawing(icons):
    images, wanted = blended(icons)
    pairs = list(zip(nearest(icons, images), wanted, strict=True))
    parts = {part: [float(getattr(a, part) == getattr(b, part)) for a, b in pairs] for part in wanted[0]._fields}
    whole = [float(a == b) for a, b in pairs]
    assert 0.2 < np.mean(whole) < 0.9
    found = CaptionAccuracy(icons).measure(images, {"caption": [drawing.caption for drawing in wanted]})
    same(found, {"caption_accuracy": whole, **{f"{part}_accuracy": values for part, values in parts.items()}})
    labels = torch.tensor([icons.icons.index(drawing.icon) for drawing in wanted])
    same(LabelAccuracy(icons).measure(images, {"label": labels}), {"label_accuracy": parts["icon"]})
    found = VariationAccuracy(icons).measure(images, {"image": icons.images(wanted)})
    expected = {f"variation_{part}_accuracy": values for part, values in parts.items()}
    same(found, {"variation_accuracy": whole, **expected})


# where things stand


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A source of scenes, their fields, and images of them with noise, of which half are of other scenes than the fields."""
    source = IconScenes(tmp_path_factory.mktemp("scenes"), count=12, colors=COLORS, backgrounds=BACKGROUNDS, size=[40, 48],
                        scenes=1, val_scenes=8)  # fmt: skip
    fields = source.truth(source.val)
    images = fields["image"][[0, 1, 2, 3, 5, 4, 7, 6]]
    noise = 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return source, (images + noise).clamp(-1, 1), fields


def drawn(image):
    """Which pixels `(H, W)` are nearer to a colour of icons than to the canvas, the median of the pixels at the edges."""
    edges = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    canvas = np.sort(edges, axis=0)[(len(edges) - 1) // 2]
    found = np.zeros(image.shape[:2], bool)
    for place in np.ndindex(found.shape):
        found[place] = (
            min(((image[place] - color) ** 2).sum() for color in PALETTE) < ((image[place] - canvas) ** 2).sum()
        )
    return found


def asked(boxes):
    return [(int(row[0]), row[1:].tolist()) for row in boxes if row[0] >= 0]


def around(mask, boxes):
    """The box around those drawn pixels that are nearest to each box, in pixels; None where there is none."""
    height, width = mask.shape
    owned = [[] for _ in boxes]
    for y, x in zip(*mask.nonzero(), strict=True):

        def away(box, x=x + 0.5, y=y + 0.5):
            x0, y0, x1, y1 = (edge * side for edge, side in zip(box, (width, height, width, height), strict=True))
            return max(x0 - x, 0, x - x1) ** 2 + max(y0 - y, 0, y - y1) ** 2

        owned[min(range(len(boxes)), key=lambda n: away(boxes[n]))].append((x, y))
    return [
        (min(x for x, _ in own), min(y for _, y in own), max(x for x, _ in own) + 1, max(y for _, y in own) + 1)
        if own
        else None
        for own in owned
    ]


def overlap(found, box, width, height):
    """Intersection over union of a box in pixels and of one in parts of the image."""
    if found is None:
        return 0.0
    x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    common = max(min(x1, found[2]) - max(x0, found[0]), 0) * max(min(y1, found[3]) - max(y0, found[1]), 0)
    return common / ((x1 - x0) * (y1 - y0) + (found[2] - found[0]) * (found[3] - found[1]) - common)


def stretched(shape, height, width):
    """A shape of another size: each pixel is the mean over those of the shape that it touches."""
    rows, columns = shape.shape
    return np.array(
        [
            [
                shape[
                    y * rows // height : math.ceil((y + 1) * rows / height),
                    x * columns // width : math.ceil((x + 1) * columns / width),
                ].mean()
                for x in range(width)
            ]
            for y in range(height)
        ]
    )


def test_layouts_are_compared_box_by_box(scenes):
    source, images, fields = scenes
    shapes = [np.array(shape, dtype=float) for shape in source.shapes(SHAPE_SIDE)]
    overlaps, icons = [], []
    for image, rows in zip(pixels(images), fields["boxes"], strict=True):
        mask = drawn(image)
        height, width = mask.shape
        boxes = asked(rows)
        found = around(mask, [box for _, box in boxes])
        overlaps.append(
            np.mean([overlap(*pair, width, height) for pair in zip(found, [b for _, b in boxes], strict=True)])
        )
        right = []
        for label, box in boxes:
            x0, y0, x1, y1 = (round(edge * side) for edge, side in zip(box, (width, height) * 2, strict=True))
            errors = [((stretched(one, y1 - y0, x1 - x0) - mask[y0:y1, x0:x1]) ** 2).mean() for one in shapes]
            right.append(int(np.argmin(errors)) == label)
        icons.append(np.mean(right))
    assert 0.2 < np.mean(overlaps) < 0.9
    assert 0.2 < np.mean(icons) < 0.9
    colors = list(COLORS.values())
    same(LayoutIoU(colors).measure(images, fields), {"layout_iou": overlaps})
    same(LayoutIcons(source, colors).measure(images, fields), {"layout_icon_accuracy": icons})


def test_regions_and_depth_are_compared_pixel_by_pixel(scenes):
    _, images, fields = scenes
    regions, depths = [], []
    for image, labels, depth in zip(
        pixels(images), fields["segmentation"].numpy(), fields["depth"].numpy(), strict=True
    ):
        right = [
            int(np.argmin([((image[place] - color) ** 2).sum() for color in PALETTE])) == labels[place] - 1
            for place in product(*map(range, labels.shape))
            if 1 <= labels[place] <= len(PALETTE)
        ]
        regions.append(np.mean(right))
        mask, near = drawn(image), depth[0] > depth.min()
        depths.append((mask & near).sum() / (mask | near).sum())
    assert 0.2 < np.mean(regions) < 0.9
    assert 0.2 < np.mean(depths) < 0.9
    colors = list(COLORS.values())
    same(RegionColors(colors, first_class=1).measure(images, fields), {"region_color_accuracy": regions})
    same(DepthIoU(colors).measure(images, fields), {"depth_iou": depths})


# peak signal-to-noise ratios


def decibels(image, truth):
    """10 log10 of the square of the range, 2, by the mean squared error, which is taken for 1e-6 where it is less."""
    return 10 * math.log10(4 / max(((image - truth) ** 2).mean(), 1e-6))


def enlarged(image, factor):
    """An image enlarged by bicubic convolution (Keys, 1981, eq. 4, with a = -0.75 as in torch), the edge repeated beyond it."""

    def weight(x):
        x = abs(x)
        if x <= 1:
            return 1.25 * x**3 - 2.25 * x**2 + 1
        return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    for axis in (0, 1):
        side = image.shape[axis]
        across = np.zeros((side * factor, side))
        for row in range(side * factor):
            place = (row + 0.5) / factor - 0.5
            for near in range(math.floor(place) - 1, math.floor(place) + 3):
                across[row, min(max(near, 0), side - 1)] += weight(place - near)
        image = np.moveaxis(np.tensordot(across, image, (1, axis)), 0, axis)
    return image.clip(-1, 1)


@pytest.fixture(scope="module")
def restored():
    """True images, and others that are near to them: the first nearer than the last."""
    rng = torch.Generator().manual_seed(2)
    truth = torch.rand(4, 3, 12, 16, generator=rng) * 2 - 1
    noise = torch.tensor([0.001, 0.01, 0.1, 1.0]).view(4, 1, 1, 1) * torch.randn(truth.shape, generator=rng)
    return truth, (truth + noise).clamp(-1, 1)


def test_ratios_of_enlarged_images_are_those_of_their_squared_errors(restored):
    truth, made = restored
    small = torch.nn.functional.avg_pool2d(truth, 4)
    pairs = list(zip(pixels(made), pixels(truth), pixels(small), strict=True))
    expected = {
        "enlarged_psnr": [decibels(image, true) for image, true, _ in pairs],
        "bicubic_psnr": [decibels(enlarged(low, 4), true) for _, true, low in pairs],
    }
    same(SuperResolutionFidelity().measure(made, {"image": truth, "low_resolution": small}), expected)


def test_ratios_of_holes_are_those_of_the_squared_errors_within(restored):
    truth, made = restored
    mask = (torch.rand(4, 1, 12, 16, generator=torch.Generator().manual_seed(3)) < 0.3).float()
    expected = {"hole_psnr": [], "mean_color_psnr": []}
    for image, true, hole in zip(pixels(made), pixels(truth), mask[:, 0].bool().numpy(), strict=True):
        expected["hole_psnr"].append(decibels(image[hole], true[hole]))
        expected["mean_color_psnr"].append(decibels(true[~hole].mean(0), true[hole]))
    same(InpaintingFidelity().measure(made, {"image": truth, "mask": mask}), expected)
