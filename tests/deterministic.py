"""Operations that torch refuses on GPUs where `trainer.deterministic=true` asks for the same bits again."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

REFUSED = (
    aten._adaptive_avg_pool2d_backward,
    aten._upsample_bicubic2d_aa_backward,
    aten._upsample_bilinear2d_aa_backward,
    aten.adaptive_max_pool2d_backward,
    aten.grid_sampler_2d_backward,
    aten.histc,
    aten.kthvalue,
    aten.median,
    aten.nll_loss2d_forward,
    aten.put_,
    aten.reflection_pad2d_backward,
    aten.upsample_bicubic2d_backward,
)
"""Those of `torch.use_deterministic_algorithms` that this project could call."""


class Deterministic(TorchDispatchMode):
    """Refuses on the CPU what a GPU would refuse."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in REFUSED, f"{func} is not deterministic on GPUs"
        return func(*args, **(kwargs or {}))
