"""Knowledge of the features of real images: mean and covariance, and the features of some of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ldm.files.tensors import write_tensors
from ldm.metric.extraction import check_finite, extract, rounded
from ldm.metric.store import FeatureStore
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.precision import float64

ROUNDING = 1e-5
"""How far features of the same image may differ, as a fraction of themselves: a network computes them in batches of any size."""


class Statistics:
    """Mean and covariance of features.

    Args:
        count: Number n of images; None where a file does not say it.
        mean: `(D,)` float64.
        covariance: `(D, D)` float64, with n - 1 in the denominator.
        factor: A matrix F `(D, R)` with F F^T = covariance, where one is known; None: `factor` finds one.

    Raises:
        ValueError: Where shapes do not fit, numbers are not finite, or all features were the same.
    """

    def __init__(self, count: int | None, mean: Tensor, covariance: Tensor, *, factor: Tensor | None = None) -> None:
        width = mean.numel()
        if mean.shape != (width,) or covariance.shape != (width, width):
            raise ValueError(
                f"a mean (D,) and a covariance (D, D) are needed, got {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise ValueError(
                "mean or covariance of features hold numbers that are not finite (nan or inf); make them anew"
            )
        self.count = count
        self.mean = mean.double()
        self.covariance = covariance.double()
        self._factor = factor

    @property
    def width(self) -> int:
        """Length D of a feature vector."""
        return self.mean.numel()

    @property
    def collapsed(self) -> bool:
        """True where all features were the same, but for rounding."""
        return not bool((self.covariance.diagonal().clamp(min=0).sqrt() > ROUNDING * self.mean.abs()).any())

    @cached_property
    def factor(self) -> Tensor:
        """A matrix F `(D, R)` with F F^T = covariance, where R is its rank up to rounding, or the number of images."""
        if self._factor is not None:
            return self._factor
        symmetric = (self.covariance + self.covariance.T) / 2
        lower: Tensor
        lower, failed = torch.linalg.cholesky_ex(symmetric)
        if not failed:
            return lower
        basis = _range_of(symmetric, min(self.count or self.width, self.width // 4 + 1))
        few = basis @ _root(basis.T @ symmetric @ basis)
        is_all = torch.isclose(few.square().sum(), symmetric.trace(), rtol=1e-9, atol=0)
        return few if is_all else _root(symmetric)

    @classmethod
    def of_scatter(cls, count: int, mean: Tensor, scatter: Tensor) -> Statistics:
        """Return mean and covariance of real images.

        Args:
            count: Number of images.
            mean: `(D,)` float64.
            scatter: The sum of (x - mean) (x - mean)^T over all features x, `(D, D)` float64.

        Raises:
            ValueError: Where there are fewer than two images.
        """
        if count < 2:
            raise ValueError(f"a covariance needs two real images or more, got {count}; give more")
        return cls(count, mean, scatter / (count - 1))

    @classmethod
    def of(cls, features: Tensor) -> Statistics:
        """Return mean and covariance of features `(N, D)`, N >= 2, computed in float64 on their device."""
        features = float64(features)
        mean = features.mean(0)
        centred = (features - mean) / (len(features) - 1) ** 0.5
        few = len(features) <= features.shape[1]
        return cls(len(features), mean, centred.T @ centred, factor=centred.T if few else None)


def _range_of(covariance: Tensor, rank: int) -> Tensor:
    """Return an orthonormal basis `(D, rank)` of the range of a covariance `(D, D)`, if its rank is not greater.

    References:
        Halko et al., 2011, algorithm 4.1, arXiv:0909.4061.
    """
    generator = torch.Generator().manual_seed(0)
    test = torch.randn(len(covariance), rank, generator=generator, dtype=covariance.dtype)
    basis: Tensor = torch.linalg.qr(covariance @ test.to(covariance.device))[0]
    return basis


def _root(covariance: Tensor) -> Tensor:
    """Return a matrix F `(D, R)` with F F^T = covariance `(D, D)`, where R is its rank up to rounding.

    The usual algorithm may not converge where the rank is far below D; the singular values, which are slower, are then taken.
    """
    try:
        values, vectors = torch.linalg.eigh(covariance)
    except RuntimeError:  # torch.linalg.LinAlgError
        vectors, values, _ = torch.linalg.svd(covariance)
    kept = values > values.amax().clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root


class Reference:
    """The features of real images, as far as they are known.

    Args:
        statistics: Mean and covariance over all of them.
        features: Features `(M, D)` of some of them, or of all; None where only statistics are known.
    """

    def __init__(self, statistics: Statistics, features: Tensor | None = None) -> None:
        if features is not None and (features.ndim != 2 or features.shape[1] != statistics.width):
            raise ValueError(f"got features {tuple(features.shape)}, expected (M, {statistics.width})")
        self.statistics = statistics
        self.features = features

    def write(self, file: Path, signature: str) -> None:
        """Write a .safetensors file that `read` reads.

        Args:
            file: The file, which is replaced where it is there.
            signature: The signature of the extractor that made the features.
        """
        tensors = {"mean": self.statistics.mean, "covariance": self.statistics.covariance}
        if self.statistics.count is not None:
            tensors["count"] = torch.tensor(self.statistics.count)
        if self.features is not None:
            tensors["features"] = self.features
        write_tensors(file, tensors, {"extractor": signature})

    @classmethod
    def read(cls, file: Path, signature: str) -> Reference:
        """Read a file that `write` wrote.

        Args:
            file: The file.
            signature: The signature of the extractor whose features are wanted.

        Raises:
            ValueError: Where it holds something else, or features of another extractor.
        """
        try:
            with safe_open(file, "pt") as content:
                made = (content.metadata() or {})["extractor"]
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118  # it is no mapping
            count = tensors.get("count")
            statistics = Statistics(None if count is None else int(count), tensors["mean"], tensors["covariance"])
        except (SafetensorError, KeyError) as error:
            raise ValueError(
                f"{file} holds no statistics of features ({str(error).splitlines()[0]}); make it anew"
            ) from error
        if made != signature:
            raise ValueError(
                f"{file} was made with {made}, not with {signature}; give one that was made with the same extractor"
            )
        return cls(statistics, tensors.get("features"))


class ReferenceBuilder:
    """Collects mean and covariance of the features of real images, and the features of some of them.

    It keeps D^2 float64 numbers, and D float32 numbers for each image of `kept`. Parts of several processes are put together by
    their `count`, `mean` and `scatter_about` the mean of all, which may be added.

    Args:
        extractor: The network that gives the features.
        kept: Numbers of the images whose features are kept.

    References:
        Chan et al., 1983, eq. 2.1, The American Statistician 37 (3), for merging means and scatters.
    """

    def __init__(self, extractor: Extractor, kept: Iterable[int] = ()) -> None:
        self.extractor = extractor
        self.kept = frozenset(kept)
        self.store = FeatureStore(extractor.num_features)
        self.count = 0
        self.mean = torch.zeros(extractor.num_features, dtype=torch.float64)
        self._scatter = torch.zeros(extractor.num_features, extractor.num_features, dtype=torch.float64)

    @torch.no_grad()
    def update(self, images: Tensor, numbers: Sequence[int]) -> None:
        """Add real images.

        Args:
            images: `(B, 3, H, W)` in [-1, 1], on the device of the extractor; they are rounded to 8 bits first.
            numbers: The number of each among all real images.

        Raises:
            ValueError: Where images or features are not finite.
        """
        check_finite(images, "real images", advice="look at data.val, from which they come")
        self.add(extract(self.extractor, rounded(images)), numbers)

    def add(self, features: Tensor, numbers: Sequence[int]) -> None:
        """Add the features `(B, D)` of real images, with the number of each."""
        rows = [row for row, number in enumerate(numbers) if number in self.kept]
        if rows:
            self.store.add(features.cpu()[rows], [numbers[row] for row in rows])
        if not len(features):
            return
        values = float64(features)
        self.mean, self._scatter = self.mean.to(values.device), self._scatter.to(values.device)
        mean = values.mean(0)
        step, total = mean - self.mean, self.count + len(values)
        centred = values - mean
        self._scatter += centred.T @ centred + torch.outer(step, step) * (self.count * len(values) / total)
        self.mean = self.mean + step * (len(values) / total)
        self.count = total

    def scatter_about(self, mean: Tensor) -> Tensor:
        """Return the sum of (x - mean) (x - mean)^T over all features x so far, `(D, D)`, for any mean `(D,)`."""
        step = self.mean - mean
        return self._scatter + self.count * torch.outer(step, step)

    def reference(self) -> Reference:
        """Return the statistics of the images that were added so far.

        Raises:
            ValueError: Where there are fewer than two.
        """
        statistics = Statistics.of_scatter(self.count, self.mean.cpu(), self._scatter.cpu())
        return Reference(statistics, self.store.ordered() if self.kept else None)


def evenly_spaced(total: int, wanted: int) -> list[int]:
    """Return at most `wanted` of the numbers below `total`, evenly spaced."""
    count = min(total, wanted)
    return [step * total // count for step in range(count)]
