"""Muon for matrices and AdamW for all other weights, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from ldm.optim.optimization import Trained


class MuonAdamW(Optimizer):
    """An optimizer with Muon for the weights of linear layers and attention, and AdamW for all others.

    Muon takes steps of the same length in all directions of a matrix. Both have the same learning rate, since Muon's
    step is scaled to the size of AdamW's. Embedding tables, such as those of tokens and positions, are matrices, too,
    but not linear maps: AdamW trains them.

    Args:
        parameters: The named parameters to train.
        lr: Learning rate of both.
        momentum: Momentum of Muon, in [0, 1).
        betas: Betas of AdamW, each in [0, 1).
        weight_decay: Decoupled weight decay of both: each step, a weight loses the fraction lr * weight_decay.

    Raises:
        ValueError: If there is no linear layer.
        ModuleNotFoundError: If torch has no Muon yet (before 2.9).

    References:
        Jordan et al., 2024, kellerjordan.github.io/posts/muon; Liu et al., 2025, eq. 4, arXiv:2502.16982.
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
        """Make one step of both optimizers.

        Args:
            closure: A function that computes gradients and returns the loss; it is called once. None: gradients are
                ready.

        Returns:
            The loss of the closure; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of both optimizers."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()

    def _join(self) -> None:
        """Use the parameter groups of both optimizers as its own, so that a learning-rate schedule reaches them."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
