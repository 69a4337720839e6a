"""Muon for matrices, AdamW for all else, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from ldm.task.optimization import Trained


class MuonAdamW(Optimizer):
    """Weights of linear layers and attention take steps of one length in all directions (Muon); the rest takes AdamW's.

    Both have the same learning rate: Muon's step is scaled to the size of AdamW's. Tables, like those of tokens and
    positions, are matrices, too, but no linear maps: they are AdamW's.

    parameters    what is trained
    lr            learning rate
    momentum      of Muon, in [0, 1)
    betas         of AdamW, each in [0, 1)
    weight_decay  of both, decoupled: each step a weight loses the share lr * weight_decay

    Raises ValueError where there is no linear layer, ModuleNotFoundError where torch has no Muon yet (before 2.9).

    Paper: Jordan et al., 2024, kellerjordan.github.io/posts/muon; Liu et al., 2025, eq. 4, arXiv:2502.16982.
    """

    def __init__(
        self,
        parameters: Trained,
        *,
        lr: float = 1e-4,
        momentum: float = 0.95,
        betas: Sequence[float] = (0.9, 0.999),
        weight_decay: float = 0.01,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ModuleNotFoundError(
                f"torch {torch.__version__} has no Muon; update it to 2.9 or later, or use another optimizer"
            )
        linear = parameters.linear
        matrices = [(name, part) for name, part in parameters if name in linear]
        others = [(name, part) for name, part in parameters if name not in linear]
        if not matrices:
            raise ValueError("Muon found no linear layer in what is trained; use another optimizer")
        muon = torch.optim.Muon(
            matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        adamw = AdamW(others, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True)
        self.parts = [muon, adamw] if others else [muon]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._join()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both; the closure, which computes gradients, is called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Those of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into both."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()

    def _join(self) -> None:
        """Our groups are theirs, so that a schedule of the learning rate reaches them."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
