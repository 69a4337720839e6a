"""The place of this process among those that share an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch

from ldm.pretrained.device import find_device

T = TypeVar("T")

STARTERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
"""Environment variables of torchrun (or typed by hand), and of Slurm."""


class Place(NamedTuple):
    """The place of a process among all that share an evaluation by its folder; nothing else connects them.

    Attributes:
        rank: Number of the process, from 0.
        world: Number of processes.
        local: Number of the process on its machine, which chooses its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @staticmethod
    def here() -> Place:
        """Return the place that the environment gives: torchrun's variables, or Slurm's, or one process alone.

        Raises:
            ValueError: If they do not fit together.
        """
        for rank, world, local in STARTERS:
            if rank in os.environ and world in os.environ:
                place = Place(int(os.environ[rank]), int(os.environ[world]), int(os.environ.get(local, 0)))
                if not 0 <= place.rank < place.world:
                    raise ValueError(
                        f"{rank}={place.rank} is not below {world}={place.world}; start the processes by torchrun"
                    )
                return place
        return Place()

    def device(self, name: str | None) -> torch.device:
        """Return the device that is named, or this process's GPU, or the CPU. Raises ValueError where there is none."""
        return find_device(name, self.local)

    def share(self, everything: Sequence[T]) -> Sequence[T]:
        """Return this process's share of a list."""
        return everything[self.rank :: self.world]
