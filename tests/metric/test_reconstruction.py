"""The distance between images and their reconstructions: its laws, and what it is measured on."""

import pytest
import torch

from ldm.metric.frechet import Frechet
from ldm.metric.per_image import PerImageMetric
from ldm.metric.reconstruction import ReconstructionDistance
from tests.metric.test_metric import Pixels


class Inception(Pixels):
    """Features under the name of those of the papers."""

    name = signature = "inception"


class Alone(Frechet):
    """A metric that needs no real images."""

    needs_reference = False


def measured(pairs):
    distance = ReconstructionDistance([Frechet(Pixels())])
    distance.start(sum(len(images) for images, _ in pairs))
    first = 0
    for images, made in pairs:
        distance.update(images, made, range(first, first + len(images)))
        first += len(images)
    return distance.compute()["rfrechet_pixels"]


def levels(count, spread=20):
    """Images of whole 8-bit levels."""
    return (128 + spread * torch.randn(count, 3, 4, 4)).round().clamp(0, 255) / 127.5 - 1


def test_what_comes_back_as_it_is_has_no_distance_and_a_shift_its_square():
    images = levels(4000)
    assert measured([(images, images)]) == pytest.approx(0.0, abs=1e-9)
    shift = 32 / 127.5
    assert measured([(images - shift, images)]) == pytest.approx(3 * shift**2, rel=1e-3)
    assert measured([(images, images.flip(0))]) == pytest.approx(0.0, abs=1e-9), "the distribution is compared"


def test_it_does_not_depend_on_batches():
    images, made = levels(60), levels(60, 30)
    parts = list(zip(images.split(7), made.split(7), strict=True))
    assert measured(parts) == pytest.approx(measured([(images, made)]), rel=1e-9)


def test_the_reference_is_taken_once_and_the_reconstructions_each_time():
    distance = ReconstructionDistance([Frechet(Pixels())])
    images = levels(2000)
    for shift in (32 / 127.5, 16 / 127.5, 0.0):
        distance.start(len(images))
        distance.update(images, images + shift, range(len(images)))
        assert distance.compute()["rfrechet_pixels"] == pytest.approx(3 * shift**2, rel=1e-3, abs=1e-9)
    assert distance.references["pixels"].statistics.count == len(images)


def test_metrics_of_other_things_are_left_out():
    metrics = [Frechet(Pixels()), CLIPCosine(), Alone(Pixels())]
    distance = ReconstructionDistance(metrics)
    assert distance.metrics == metrics[:1]
    assert distance.names == ["rfrechet_pixels"]
    assert ReconstructionDistance([Frechet(Inception())]).names == ["rfid"]
    assert ReconstructionDistance(metrics[1:]).compute() == {}


class CLIPCosine(PerImageMetric):
    """A metric that reads a field."""

    inputs = ("caption",)

    def __init__(self):
        super().__init__(["cosine"])

    def measure(self, images, fields):
        return {}


def test_too_few_images_for_the_covariance_are_doubted():
    distance = ReconstructionDistance([Frechet(Pixels())])
    vectors = torch.randn(3, 3).double()
    assert torch.linalg.matrix_rank(torch.cov(vectors.T)) == 2, "three images are too few for three features"
    assert distance.warnings(4) == []
    (warning,) = distance.warnings(3)
    assert "rfrechet_pixels is measured on 3 images, and the covariance of its 3 features needs more than 3" in warning
