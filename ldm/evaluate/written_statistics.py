"""Statistics of the images that an evaluation has measured, in the files of other programs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ldm.metric.reference_file import check_statistics_file, write_statistics
from ldm.metric.statistics import Statistics
from ldm.metric.suite import MetricSuite
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.inception import SpatialInception


def check_statistics(file: str | None, suites: Iterable[MetricSuite]) -> None:
    """Check that statistics of what metrics look at can be written.

    Args:
        file: The option `statistics`; None: nothing is to be written.
        suites: The metrics.

    Raises:
        FileExistsError: Where something is there.
        ValueError: Where the ending is another, or the metrics have no features, or those of several networks.
    """
    if file is None:
        return
    extractors = [extractor for suite in suites for extractor in suite.extractors.values()]
    plain = [extractor for extractor in extractors if not _is_spatial(extractor)]
    if len(plain) != 1:
        names = ", ".join(extractor.signature for extractor in plain) or "none"
        raise ValueError(
            f"statistics={file} are of the features of one network, but the metrics have {names}; choose one of them, like "
            "metric=inception_score, and metric=[inception_score,sfid] for ADM's"
        )
    check_statistics_file(Path(file), spatial=len(extractors) > 1)


def write_measured(file: str, suites: Iterable[MetricSuite]) -> None:
    """Write mean and covariance of the features of all images; see `check_statistics`."""
    found = {
        _is_spatial(extractor): Statistics.of(suite.features[signature].ordered())
        for suite in suites
        for signature, extractor in suite.extractors.items()
    }
    write_statistics(file, found[False], spatial=found.get(True))


def _is_spatial(extractor: Extractor) -> bool:
    return isinstance(extractor, SpatialInception)
