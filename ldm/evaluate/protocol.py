"""Protocols: how a model is measured, so that its scores can be compared with others that were measured in the same way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from omegaconf import DictConfig

from ldm.evaluate.own import Results
from ldm.evaluate.processes import Place
from ldm.pretrained.precision import without_tf32
from ldm.processes.cores import warn_of_busy_cores
from ldm.processes.memory import limit_memory


def begin_measuring(config: DictConfig) -> None:
    """Turn TF32 off on GPUs, and warn where the work will be done on a CPU whose cores are busy.

    Args:
        config: The options of a command, checked.
    """
    without_tf32()
    device = Place.here().device(config.device)
    limit_memory(device)
    warn_of_busy_cores(device)


def refuse_options(config: DictConfig, names: Iterable[str], measured: str) -> None:
    """Raise ValueError where an option is given that has no meaning for what a protocol measures.

    Args:
        config: The options of a command.
        names: Names of such options.
        measured: A description of what is measured.
    """
    for name in names:
        if config.get(name) is not None:
            raise ValueError(f"{name}= has no meaning for {measured}; leave it out")


class Protocol(ABC):
    """The base class of protocols.

    Args:
        name: Its name, which stands in the results.
        published: Name of a score -> what was published for the model that the protocol is named after.
        source: Where that was published.
    """

    def __init__(self, name: str, *, published: Mapping[str, float] | None = None, source: str = "") -> None:
        self.name = name
        self.published = dict(published or {})
        self.source = source

    @abstractmethod
    def run(self, config: DictConfig) -> Sequence[Results]:
        """Measure as the options of a command say, and write the scores.

        Args:
            config: `configs/evaluate.yaml` with the options.

        Returns:
            What was written: the results of each model.

        Raises:
            ValueError: Where options make no sense, before anything is written.
        """
