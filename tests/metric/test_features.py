"""Metrics of features: their laws, then their definitions in numpy, then torch-fidelity's own numbers on the same features."""

import json

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from ldm.metric.base import CollapsedFeaturesError
from ldm.metric.frechet import Frechet, frechet_distance
from ldm.metric.inception_score import InceptionScore
from ldm.metric.kernel import CMMD, KID, polynomial_mmd
from ldm.metric.precision_recall import PrecisionRecall
from ldm.metric.statistics import Reference, Statistics
from ldm.pretrained.extractor import ClassifyingExtractor
from ldm.pretrained.inception import SpatialInception
from tests.metric import torch_fidelity_numbers as oracle
from tests.second_device import second_device

NUMBERS = json.loads(oracle.FILE.read_text())
GENERATED, REAL, WEIGHT = oracle.features()


class Given(ClassifyingExtractor):
    """Stands for a network whose features are given."""

    def __init__(self, width=oracle.WIDTH, name="inception"):
        super().__init__()
        self.name = self.signature = name
        self.num_features = width

    def forward(self, images):
        raise AssertionError("features are given")

    def class_logits(self, features):
        return features @ WEIGHT.to(features).T


def reference(features):
    return Reference(Statistics.of(features), features)


def kid(**options):
    return KID(Given(), **{"subsets": oracle.SUBSETS, "subset_size": oracle.SUBSET_SIZE, **options})


METRICS = {
    "frechet": lambda: Frechet(Given()),
    "kid": kid,
    "cmmd": lambda: CMMD(Given(), sigma=3.0),
    "precision_recall": lambda: PrecisionRecall(Given()),
}
COMPARING = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
ALL = pytest.mark.parametrize("metric", [*METRICS.values(), lambda: InceptionScore(Given())], ids=[*METRICS, "score"])


# laws


@COMPARING
def test_turning_the_space_of_features_changes_nothing(metric):
    rotation = torch.linalg.qr(torch.randn(oracle.WIDTH, oracle.WIDTH, dtype=torch.float64)).Q
    turned = [(part.double() @ rotation).float() for part in (GENERATED, REAL)]
    first = metric().measure(GENERATED, reference(REAL))
    assert metric().measure(turned[0], reference(turned[1])) == pytest.approx(first, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["frechet", "cmmd", "precision_recall"])
def test_the_order_of_images_plays_no_part(name):
    """It does where parts of the images are drawn."""
    metric = METRICS[name]()
    order = torch.randperm(len(GENERATED))
    first = metric.measure(GENERATED, reference(REAL))
    assert metric.measure(GENERATED[order], reference(REAL.flip(0))) == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize(("name", "expected"), [("frechet", [0]), ("cmmd", [0]), ("precision_recall", [1, 1])])
def test_a_set_compared_with_itself_is_perfect(name, expected):
    found = METRICS[name]().measure(REAL, reference(REAL))
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_fewer_images_than_features_have_no_distance_to_themselves_either():
    few = torch.randn(5, oracle.WIDTH)
    assert Frechet(Given()).measure(few, reference(few))["fid"] == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_gaussians_that_commute_is_known():
    a, b = torch.rand(2, 6, dtype=torch.float64) + 0.1
    shift = torch.randn(6, dtype=torch.float64)
    first, second = Statistics(None, torch.zeros(6), a.diag()), Statistics(None, shift, b.diag())
    exact = shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(float(exact), rel=1e-9)
    assert frechet_distance(second, first) == pytest.approx(float(exact), rel=1e-9)


def test_frechet_distance_of_covariances_without_full_rank_is_known():
    """Of two lines at an angle: the root has the trace |cos|."""
    x, y = torch.tensor([1.0, 0, 0]).double(), torch.tensor([0.6, 0.8, 0]).double()
    lines = [Statistics(None, torch.zeros(3), torch.outer(line, line)) for line in (x, y)]
    assert frechet_distance(*lines) == pytest.approx(2 - 2 * 0.6, rel=1e-12)


@pytest.mark.parametrize("count", [6, oracle.WIDTH - 3, 300])
def test_a_factor_multiplied_by_itself_is_the_covariance(count):
    """Known from few images, or found of the covariance, whether it is known of how many images or not, or known wrongly."""
    statistics = Statistics.of(torch.randn(count, oracle.WIDTH))
    for said in (count, None, 3):
        found = Statistics(said, statistics.mean, statistics.covariance)
        for factor in (statistics.factor, found.factor):
            torch.testing.assert_close(factor @ factor.T, statistics.covariance, rtol=1e-9, atol=1e-12)
        assert found.factor.shape[1] == min(count - 1, oracle.WIDTH)


def test_kid_of_two_halves_of_one_distribution_is_zero_on_average():
    rng = torch.Generator().manual_seed(0)
    found = np.array([polynomial_mmd(*torch.randn(2, 30, 4, generator=rng).unbind()) for _ in range(400)])
    spread = found.std() / len(found) ** 0.5
    assert abs(found.mean()) < 3 * spread
    assert (found < 0).any(), "an estimate without bias is below zero at times"
    moved = [
        polynomial_mmd(torch.randn(30, 4, generator=rng), 0.5 + torch.randn(30, 4, generator=rng)) for _ in range(100)
    ]
    assert np.mean(moved) > 20 * spread


def test_cmmd_is_biased_upwards_and_less_so_for_more_images():
    few, many = (
        CMMD(Given(4), sigma=1.0).measure(torch.randn(count, 4), reference(torch.randn(count, 4)))
        for count in (20, 600)
    )
    (name,) = few
    assert few[name] > 3 * many[name] > 0


def test_precision_and_recall_tell_what_is_lacking():
    """A model that makes one of two kinds, and one that makes what is not there."""
    kinds = torch.cat([torch.randn(60, 8), torch.randn(60, 8) + 30])
    one = torch.randn(60, 8) + 30
    strange = torch.cat([kinds + 0.1 * torch.randn(120, 8), torch.randn(120, 8) - 30])
    metric = PrecisionRecall(Given(8))
    half = metric.measure(one, reference(kinds))
    assert half["precision"] > 0.8
    assert 0.3 < half["recall"] <= 0.5
    odd = metric.measure(strange, reference(kinds))
    assert 0.4 < odd["precision"] <= 0.55
    assert odd["recall"] > 0.8


def test_the_inception_score_of_sure_and_even_classes_is_their_number_and_of_unsure_ones_1():
    """Features are the logits of seven classes."""
    metric = InceptionScore(Given(oracle.CLASSES), splits=2)
    metric.classifier.class_logits = lambda features: features
    sure = 100.0 * torch.eye(oracle.CLASSES).repeat(200, 1)
    unsure = torch.rand(100, 1).expand(-1, oracle.CLASSES)
    assert metric.measure(sure, None)["inception_score"] == pytest.approx(oracle.CLASSES, rel=0.01)
    assert metric.measure(unsure, None)["inception_score"] == pytest.approx(1)


# definitions, and torch-fidelity


def close(found, name):
    assert found == pytest.approx(NUMBERS[name], rel=1e-6)


@pytest.mark.parametrize(
    ("extractor", "name"), [("inception", "fid"), ("inception_spatial", "sfid"), ("d", "frechet_d")]
)
def test_the_frechet_distance_is_torch_fidelitys(extractor, name):
    close(Frechet(Given(name=extractor)).measure(GENERATED, reference(REAL))[name], "frechet_inception_distance")


@pytest.mark.slow
def test_sfid_of_features_of_its_length_is_the_definition_in_float64():
    """Nash et al., 2021: FID's distance, here by the square root of a covariance in numpy."""
    rng = np.random.RandomState(11)
    width = SpatialInception.num_features
    made, real = (
        rng.randn(width + 50, width) * np.linspace(low, high, width) for low, high in ((0.6, 1.2), (1.3, 0.8))
    )
    made, real = (made + 0.1).astype(np.float32), real.astype(np.float32)
    metric = Frechet(Given(width, "inception_spatial"))
    found = metric.measure(torch.from_numpy(made), reference(torch.from_numpy(real)))
    a, b = (np.cov(part.astype(float), rowvar=False) for part in (made, real))
    shift = made.astype(float).mean(0) - real.astype(float).mean(0)
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ b @ root)).sum()
    expected = shift @ shift + np.trace(a) + np.trace(b) - 2 * trace
    assert found == {"sfid": pytest.approx(expected, rel=1e-9)}


def test_kid_is_torch_fidelitys():
    found = kid().measure(GENERATED, reference(REAL))
    close(found["kid"], "kernel_inception_distance_mean")
    close(found["kid_std"], "kernel_inception_distance_std")


def test_the_inception_score_is_torch_fidelitys():
    found = InceptionScore(Given()).measure(GENERATED, None)
    close(found["inception_score"], "inception_score_mean")
    close(found["inception_score_std"], "inception_score_std")


def test_precision_and_recall_are_torch_fidelitys_in_blocks_of_any_size(monkeypatch):
    for size in (2**24, 1000):
        monkeypatch.setattr("ldm.metric.precision_recall.BLOCK", size)
        found = PrecisionRecall(Given()).measure(GENERATED, reference(REAL))
        close(found["precision"], "precision")
        close(found["recall"], "recall")


def test_the_polynomial_distance_is_that_of_torchmetrics():
    x, y = GENERATED[:100].double(), REAL[:100].double()
    assert polynomial_mmd(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


def test_cmmd_is_the_papers_definition_in_blocks_of_any_size(monkeypatch):
    made, real = GENERATED.double().numpy(), REAL.double().numpy()

    def kernel(a, b):
        return np.exp(-np.square(a[:, None] - b[None]).sum(2) / (2 * 10.0**2)).mean()

    expected = 1000 * (kernel(made, made) + kernel(real, real) - 2 * kernel(made, real))
    for size in (2**24, 1000):
        monkeypatch.setattr("ldm.metric.kernel.BLOCK", size)
        found = CMMD(Given(name="clip_l_336")).measure(GENERATED, reference(REAL))
        assert found == {"cmmd": pytest.approx(expected, rel=1e-9)}


# guards


@ALL
def test_features_that_are_all_the_same_give_no_number(metric):
    same = torch.full((120, oracle.WIDTH), 0.3) * (1 + 1e-7 * torch.randn(120, 1))  # but for rounding
    with pytest.raises(CollapsedFeaturesError, match="features of all 120 generated images are the same"):
        metric().measure(same, reference(REAL))
    with pytest.raises(ValueError, match="features of all 120 generated images are the same"):
        metric().measure(same, reference(REAL[:1].expand(110, -1)))


@COMPARING
def test_real_images_that_are_all_the_same_give_no_number(metric):
    with pytest.raises(ValueError, match="features of all real images are the same"):
        metric().measure(GENERATED, reference(torch.full((110, oracle.WIDTH), 0.3)))


@ALL
def test_features_that_are_not_finite_or_of_another_network_are_refused(metric):
    broken = GENERATED.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 120 feature vectors hold numbers that are not finite"):
        metric().measure(broken, reference(REAL))
    with pytest.raises(ValueError, match="got features of length 8, but inception gives 16"):
        metric().measure(GENERATED[:, :8], reference(REAL))


@COMPARING
def test_a_reference_that_is_missing_or_of_another_network_is_refused(metric):
    with pytest.raises(ValueError, match="compares with real images, but none are known"):
        metric().measure(GENERATED, None)
    with pytest.raises(ValueError, match="the reference is of 8 features, but inception gives 16"):
        metric().measure(GENERATED, reference(REAL[:, :8]))


@pytest.mark.parametrize("name", ["kid", "cmmd", "precision_recall"])
def test_statistics_alone_are_refused_where_features_are_needed(name):
    with pytest.raises(ValueError, match="holds mean and covariance alone; give real images in its place"):
        METRICS[name]().measure(GENERATED, Reference(Statistics.of(REAL)))


@ALL
def test_features_of_another_device_are_measured_there(metric):
    """With a reference that lies on the CPU, as it is read."""
    expected = metric().measure(GENERATED, reference(REAL))
    with second_device() as device:
        found = metric().measure(GENERATED.to(device), reference(REAL))
    assert found == pytest.approx(expected, rel=1e-9)


@ALL
def test_too_few_images_are_an_error_and_few_a_doubt(metric):
    metric = metric()
    least = metric.least_images
    with pytest.raises(ValueError, match=f"needs at least {least} generated images, got {least - 1}"):
        metric.measure(GENERATED[: least - 1], reference(REAL))
    assert len(metric.measure(GENERATED[:least], reference(REAL))) == len(metric.names)
    if metric.needs_reference and metric.real_features:
        with pytest.raises(ValueError, match=f"at least {least} real images, but the reference holds {least - 1}"):
            metric.measure(GENERATED, Reference(Statistics.of(REAL), REAL[: least - 1]))
    assert metric.warning(metric.wanted_images) is None
    if metric.wanted_images > least:
        assert f"is measured on {least} images, and " in metric.warning(least)


@ALL
def test_scores_have_their_published_names_on_the_published_features_alone(metric):
    metric = metric()
    assert list(metric.measure(GENERATED, reference(REAL))) == list(metric.names)
    metric.extractor.name = "efficientnet"
    assert all(name.endswith("_efficientnet") for name in metric.names)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: kid(subset_size=1), "metric.kid.subset_size=1"),
        (lambda: kid(real_features=49), "metric.kid.real_features=49"),
        (lambda: CMMD(Given(), sigma=0.0), "metric.cmmd.sigma=0.0"),
        (lambda: PrecisionRecall(Given(), neighbors=0), "metric.precision_recall.neighbors=0"),
        (lambda: InceptionScore(Given(), splits=0), "metric.inception_score.splits=0"),
    ],
)
def test_options_without_sense_are_refused(make, option):
    with pytest.raises(ValueError, match=f"{option} cannot be"):
        make()


def test_a_spectrum_that_does_not_converge_is_found_in_another_way(monkeypatch):
    """LAPACK's usual algorithm gives up now and then on the covariance of few images."""

    def fails(_):
        raise RuntimeError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    known = Statistics.of(torch.rand(4, 64, dtype=torch.float64))
    read = Statistics(4, known.mean, known.covariance)
    torch.testing.assert_close(read.factor @ read.factor.T, known.covariance)
