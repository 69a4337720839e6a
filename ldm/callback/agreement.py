"""Let several processes agree on what to do next without making any step wait for a device or another process."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor


class Agreement:
    """Finds out the most that any process asks for; what is asked at one step is known to all at the next.

    Each call of `exchange` begins a reduction over all processes, and returns the result of the one before, so that all act by
    the same number after the same step. On a GPU the reduction and the copy of its result to the host wait in the device's
    queue: by the next step they are behind the device, which has that step's work to do meanwhile.

    All processes must make the same calls in the same order.
    """

    def __init__(self) -> None:
        self._begun: Tensor | None = None
        self._work: dist.Work | None = None
        self._arrived: torch.cuda.Event | None = None

    def exchange(self, trainer: pl.Trainer, mine: int, *, at_once: bool = False) -> int:
        """Make the request of this process known, and return the greatest request of all processes in the previous call.

        Args:
            trainer: The trainer.
            mine: The request of this process, not negative; a larger number is stronger.
            at_once: Whether to wait for what all ask for in this call, too; the same in all processes.

        Returns:
            What all are to do now; of a single process what it asks for itself.
        """
        if trainer.world_size == 1:
            return mine
        before = self.outstanding()
        self._begin(mine, trainer.strategy.root_device)
        return max(before, self.outstanding()) if at_once else before

    def outstanding(self) -> int:
        """Return the most that any process has asked for in the last call, and wait for it; 0 where that is known already."""
        begun, self._begun = self._begun, None
        if begun is None:
            return 0
        if self._arrived is not None:
            self._arrived.synchronize()
        elif self._work is not None:
            self._work.wait()
        return int(begun)

    def _begin(self, mine: int, device: torch.device) -> None:
        """Start to find the greatest request of all processes."""
        asked = torch.full((), mine, device=device)  # filled by the device: no copy that the host would wait for
        work = dist.all_reduce(asked, op=dist.ReduceOp.MAX, async_op=True)
        if device.type != "cuda":
            self._begun, self._work = asked, work
            return
        work.wait()  # puts what follows into the device's queue behind the reduction
        self._begun = torch.empty((), dtype=asked.dtype, pin_memory=True).copy_(asked, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()
