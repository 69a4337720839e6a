"""The experiment that fits data which have been opened."""

from __future__ import annotations

from ldm.data.base import DataModule
from ldm.data.experiments import choose_experiment
from ldm.data.order.batch_sampler import spread

LOOKED_AT = 100


def fitting_experiment(data: DataModule) -> str:
    """Return the name of an experiment whose model is conditioned on what most validation samples have, or unconditional."""
    numbers = spread(len(data.val_set), LOOKED_AT)
    return choose_experiment(lambda field: 2 * len(data.val_set.broken(numbers, data.choose([field]))) < len(numbers))
