"""The distance between images and their reconstructions: its laws, what it is measured on, and that ranks measure together."""

import pytest
import torch

from ldm.metric.frechet import Frechet
from ldm.metric.reconstruction import ReconstructionDistance
from tests.metric.test_metric import Pixels, gaussians
from tests.ranks import on_two_ranks
from tests.test_processes import connected


class Inception(Pixels):
    """Features under the name of those of the papers."""

    name = "fid"


class Told(Frechet):
    """A metric that reads a field."""

    inputs = ("caption",)


class Alone(Frechet):
    """A metric that needs no real images."""

    reference_name = None


def measured(pairs):
    distance = ReconstructionDistance([Frechet(Pixels())])
    for images, made in pairs:
        distance.update(images, made)
    return distance.compute()["rpixels"]


def test_what_comes_back_as_it_is_has_no_distance_and_a_shift_its_square():
    images = gaussians(0.0, 1.0)
    assert measured([(images, images)]) == pytest.approx(0.0, abs=1e-6)
    assert measured([(images, images + 0.5)]) == pytest.approx(3 * 0.25, rel=1e-4)
    assert measured([(images, images.flip(0))]) == pytest.approx(0.0, abs=1e-6), "the distribution is compared"


def test_it_does_not_depend_on_batches():
    images, made = gaussians(0.0, 1.0, 60), gaussians(0.3, 2.0, 60)
    parts = zip(images.split(7), made.split(7), strict=True)
    assert measured(parts) == pytest.approx(measured([(images, made)]), rel=1e-6)


def test_the_reference_is_taken_once_and_the_reconstructions_each_time():
    distance = ReconstructionDistance([Frechet(Pixels())])
    images = gaussians(0.0, 1.0)
    for shift in (0.5, 0.2, 0.0):
        distance.update(images, images + shift)
        assert distance.compute()["rpixels"] == pytest.approx(3 * shift**2, abs=1e-5)
    (metric,) = distance.metrics
    assert int(metric.reference()["real_features_num_samples"]) == len(images)


def test_metrics_of_other_things_are_left_out():
    metrics = [Frechet(Pixels()), Told(Pixels()), Alone(Pixels())]
    distance = ReconstructionDistance(metrics)
    assert distance.metrics == metrics[:1]
    assert distance.names == ["rpixels"]
    assert ReconstructionDistance([Frechet(Inception())]).names == ["rfid"]
    assert ReconstructionDistance(metrics[1:]).compute() == {}


def test_too_few_images_for_the_covariance_are_doubted():
    distance = ReconstructionDistance([Frechet(Pixels())])
    vectors = torch.randn(3, 3).double()
    assert torch.linalg.matrix_rank(torch.cov(vectors.T)) == 2, "three images are too few for three features"
    assert distance.doubts(4) == []
    (doubt,) = distance.doubts(3)
    assert "rpixels is measured on 3 images, and the covariance of its features needs more than 3" in doubt


def test_ranks_measure_together():
    """At each validation, on the same images; also where one rank has none."""
    images = gaussians(0.0, 1.0, 9)
    made = images * 0.5 + 0.1
    whole = measured([(images, made)])

    def work(rank):
        connected()
        distance = ReconstructionDistance([Frechet(Pixels())])
        for _ in range(2):
            mine = slice(0, 6) if rank == 0 else slice(6, 9)
            distance.update(images[mine], made[mine])
            assert abs(distance.compute()["rpixels"] - whole) < 1e-5 * whole
        uneven = ReconstructionDistance([Frechet(Pixels())])
        if rank == 0:
            uneven.update(images, made)
        assert abs(uneven.compute()["rpixels"] - whole) < 1e-5 * whole

    for code, text in on_two_ranks(work):
        assert code == 0, text
