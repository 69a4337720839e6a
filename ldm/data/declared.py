"""Checks that moments are declared as they are, before anything is written."""

from __future__ import annotations

from ldm.data.dataset import ShardDataset
from ldm.data.foreign_moments import ForeignMoments, is_undeclared
from ldm.data.order.batch_sampler import spread
from ldm.data.shards.dataset_index import DatasetIndex

MOMENTS_LOOKED_AT = 8
"""The number of foreign moments that are read as a test at the start."""


def check_declared(index: DatasetIndex, declared: ForeignMoments | None, option: str) -> None:
    """Check that moments whose shards say nothing of them are declared, and nothing else is.

    Args:
        index: The samples.
        declared: The declaration of the moments; None: there is none.
        option: The option that names their shards.

    Raises:
        ValueError: If that is not so.
    """
    arrays = is_undeclared(index.encoding)
    if arrays and declared is None:
        raise ValueError(
            f"{option} holds arrays of moments (.npy), which do not say how they were made; declare it: data=moments "
            "data.moments.channels=... data.moments.scale=..., and so on"
        )
    if declared is not None and not arrays:
        found = "latents that say themselves how they were made" if index.encoding else "images"
        raise ValueError(
            f"data.moments declares arrays of moments (.npy), but {option} holds {found}; give both data.train and data.val "
            f"shards of arrays, or type {'data=latents' if index.encoding else 'data=shards'}"
        )


def look_at_moments(samples: ShardDataset, declared: ForeignMoments | None, option: str) -> None:
    """Look at a few foreign moments, so that a wrong declaration is an error before anything is written.

    Args:
        samples: The samples.
        declared: The declaration of the moments; None: there is none.
        option: The option that names their shards.

    Raises:
        ValueError: If none of them is what was declared.
    """
    if declared is None:
        return
    numbers = spread(len(samples), MOMENTS_LOOKED_AT)
    batch, _ = samples.exactly(numbers)
    if not batch.key:
        reasons = "; ".join(dict.fromkeys(skip.reason for skip in batch.skipped))
        raise ValueError(
            f"none of {len(numbers)} samples of {option} that were looked at can be read: {reasons}; set data.size, "
            "data.moments.channels and data.moments.downsampling_factor as the moments were made"
        )
