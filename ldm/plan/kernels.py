"""Tensors of the meta device, which hold no values, computed in the types and by the kernels of a device that is not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ldm.pretrained.precision import FULL_PRECISION

LOWER: frozenset[Any] = frozenset(
    {
        *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.linear, F.scaled_dot_product_attention),
        *(torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d),
        *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm),
    }
)
"""Functions that autocast computes in the lower precision, on CPUs and GPUs alike."""

FULL_ON_GPU: frozenset[Any] = frozenset(
    {
        *(F.group_norm, torch.group_norm, F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax),
        *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.cosine_similarity, torch.cosine_similarity),
        *(F.binary_cross_entropy_with_logits, F.softplus, torch.norm, Tensor.norm),
        *(torch.pow, Tensor.pow, Tensor.__pow__, torch.square, Tensor.square, torch.sum, Tensor.sum, torch.prod),
        *(torch.exp, Tensor.exp, torch.log, Tensor.log, torch.rsqrt, Tensor.rsqrt, torch.cumsum, Tensor.cumsum),
    }
)
"""Functions that autocast computes in fp32 on GPUs; see torch's "CUDA Ops that can autocast to float32"."""

FULL_ON_CPU: frozenset[Any] = frozenset({F.mse_loss, torch.prod})
"""Functions that autocast computes in fp32 on CPUs, those of them that are used here."""


_ACTIVE: ContextVar[AbstractContextManager[Any] | None] = ContextVar("kernels", default=None)


def contexts_again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of activation checkpointing: a block is computed again, within the backward pass, by the same kernels.

    While a function of torch is called, as that of the backward pass, the mode that calls it is off.
    """
    return nullcontext(), _ACTIVE.get() or nullcontext()


class DeviceKernels(TorchFunctionMode):
    """Lets tensors of the meta device be computed as a device would: the same types, the same kernels of attention.

    PyTorch's own autocast leaves tensors of the meta device alone. Here, too, weights are cast once and kept, and
    `full_precision` turns it off.

    Args:
        accelerator: "gpu" or "cpu".
        autocast: Whether bf16 autocast is on.
        fused: Whether attention is computed by fused kernels, which keep no matrix of attention but compute it twice.

    Attributes:
        cast_bytes: Bytes of the weights that were cast, and are kept.
    """

    def __init__(self, *, accelerator: str, autocast: bool, fused: bool = True) -> None:
        super().__init__()
        self.accelerator = accelerator
        self.autocast = autocast
        self.fused = fused
        self.full = FULL_ON_GPU if accelerator == "gpu" else FULL_ON_CPU
        self.cast_bytes = 0
        self._cast: dict[int, Tensor] = {}

    def __enter__(self) -> DeviceKernels:
        """Begin; blocks that are computed again know where."""
        _ACTIVE.set(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch as it would be called on the device."""
        kwargs = kwargs or {}
        if func is Tensor.all and args[0].is_meta:  # "is nothing masked?": there are paddings
            return torch.zeros((), dtype=torch.bool)
        autocast = self.autocast and not FULL_PRECISION.get()
        if autocast and func in LOWER:
            args, kwargs = tree_map_only(Tensor, self._lower, (tuple(args), kwargs))
        elif autocast and func in self.full:
            args, kwargs = tree_map_only(Tensor, _full, (tuple(args), kwargs))
        if func is F.scaled_dot_product_attention and self._fuses(args[0]):
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def forget(self) -> None:
        """Forget the weights that were cast, as at the end of a block of autocast."""
        self._cast.clear()
        self.cast_bytes = 0

    def _lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype is not torch.float32 or not tensor.is_meta:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor.to(torch.bfloat16)
            self.cast_bytes += self._cast[id(tensor)].nbytes
        return self._cast[id(tensor)]

    def _fuses(self, query: Tensor) -> bool:
        """Return whether attention is fused: on CPUs not in bf16; see `ldm.training.run`."""
        return self.fused and query.is_meta and (self.accelerator == "gpu" or query.dtype is torch.float32)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Return the output of a fused kernel, which keeps no attention matrix for the backward pass."""
        bias = attn_mask
        if bias is not None:
            full = torch.zeros_like(bias, dtype=query.dtype) if bias.dtype is torch.bool else bias.to(query.dtype)
            bias = full.expand(*query.shape[:-1], key.shape[-2])
        if self.accelerator == "gpu":
            kernel = torch.ops.aten._scaled_dot_product_efficient_attention
            made = kernel(query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)
        else:
            kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            made = kernel(query, key, value, dropout_p, is_causal, attn_mask=bias, scale=scale)
        attended: Tensor = made[0]
        return attended


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype is torch.bfloat16 else tensor
