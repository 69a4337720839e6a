"""Power-function averages of the weights, several lengths at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ldm.callback.steps import StepCounter
from ldm.ema.power_function import decay_at, gamma_of
from ldm.ema.snapshot import write_snapshot
from ldm.files.tensors import DTYPES
from ldm.optim.divergence import all_finite


class PowerEMA(pl.Callback):
    """Keeps averages of the trained weights and writes snapshots of them, from which `python -m ldm.ema` makes others.

    After optimiser step t an average becomes β_t average + (1 - β_t) weights with β_t = (1 - 1/t)^(γ+1). The weights are
    those that are trained, not what EMA shows to validation. Averages are kept in fp32, on all ranks, and go into
    checkpoints, so that a run that goes on writes the same snapshots; rank zero writes them.

    Args:
        folder: The folder for the snapshots.
        lengths: Lengths of the averages, the paper's sigma_rel, each in (0, 0.2887); none: nothing is done.
        every_n_steps: Optimiser steps between snapshots; there is one at the last step as well.
        dtype: Number format of snapshots: "float32", or "float16" (half the size, rounded).

    Raises:
        ValueError: If an option is outside its range.

    References:
        Karras et al., 2023, section 3.1, arXiv:2312.02696.
    """

    def __init__(
        self,
        folder: str | Path,
        lengths: Sequence[float] = (0.05, 0.1),
        *,
        every_n_steps: int = 1000,
        dtype: str = "float32",
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"snapshots of averages are written every 1 or more steps; got {every_n_steps}")
        if dtype not in DTYPES:
            raise ValueError(f"the dtype of snapshots is one of {', '.join(DTYPES)}; got {dtype!r}")
        if len(set(lengths)) < len(lengths):
            raise ValueError(f"the lengths of averages differ from each other; got {list(lengths)}")
        self.folder = Path(folder)
        self.gammas = {float(length): gamma_of(length) for length in lengths}
        self.every_n_steps = every_n_steps
        self.dtype = dtype
        self.averages: dict[float, dict[str, Tensor]] = {}
        self._steps = StepCounter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the averages to the weights' device, out of a file that may be deleted, or begin them.

        Raises:
            ValueError: If their beginning is missing.
        """
        if trainer.global_step == 0:
            weights = _trained(pl_module)
            self.averages = {
                length: {name: tensor.clone() for name, tensor in weights.items()} for length in self.gammas
            }
        elif self.gammas and (self.averages.keys() != self.gammas.keys() or self._steps.made != trainer.global_step):
            raise ValueError(
                f"the run goes on from step {trainer.global_step} with averages of lengths {list(self.gammas)}, but its "
                f"checkpoint has {list(self.averages)}, up to step {self._steps.made}; they can only be kept from the first "
                "step: train anew under another name="
            )
        for average in self.averages.values():
            average.update({name: tensor.to(pl_module.device, copy=True) for name, tensor in average.items()})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after an optimiser step, and write a snapshot where one is due."""
        if not self.gammas or not self._steps.advances(trainer):
            return
        weights = _trained(pl_module)
        for length, average in self.averages.items():
            update = get_ema_multi_avg_fn(decay_at(self.gammas[length], self._steps.made))
            update([average[name] for name in weights], list(weights.values()), self._steps.made)
        if trainer.is_global_zero and (
            self._steps.made % self.every_n_steps == 0 or self._steps.made == trainer.max_steps
        ):
            for length, average in self.averages.items():
                if not all_finite(average.values()):
                    return  # the training diverged, which Checkpoints will say
                write_snapshot(self.folder, self._steps.made, length, weights=average, dtype=self.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and their step; nothing where no averages are kept."""
        return {"step": self._steps.made, "averages": self.averages} if self.gammas else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the averages and their step."""
        self._steps.made, self.averages = state_dict["step"], state_dict["averages"]


def _trained(pl_module: pl.LightningModule) -> dict[str, Tensor]:
    """Return the weights that are trained as they are now, in fp32, by the names that they have in the model's checkpoint."""
    assert isinstance(pl_module.model, nn.Module)
    parameters = pl_module.model.named_parameters()
    return {name: parameter.detach().float() for name, parameter in parameters if parameter.requires_grad}
