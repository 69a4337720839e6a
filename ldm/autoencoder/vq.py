"""The VQ regulariser: the decoder is given the nearest vectors of a learned codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.regularizer import Penalty, Point, Regularizer
from ldm.options.rule import COUNT, FLAG, NOT_NEGATIVE, Optional, check
from ldm.pretrained.precision import float64

DISTANCES_AT_ONCE = 2**26
"""Distances between vectors and codes that are in memory at the same time."""


class CodedPoint(Point):
    """One raw latent for each image, and the codes that are nearest to the encoder's output, once they were looked for.

    Args:
        raw: The raw latents, `(B, C, h, w)`.
        features: The encoder's own output, `(B, C, h, w)`, where raw latents are those after quantisation; None: `raw`.
        indices: The indices of the codes that are nearest to the encoder's output, `(B, h, w)` int64; None: nobody has looked.
    """

    def __init__(self, raw: Tensor, features: Tensor | None = None, indices: Tensor | None = None) -> None:
        super().__init__(raw, features)
        self.indices = indices


class VQRegularizer(Regularizer[CodedPoint]):
    """Vector quantisation: each vector of the raw latent is replaced by the nearest of n codes before it is decoded.

    Gradients pass the replacement as if it were not there (straight-through). The loss of eq. 3 is
    `codebook_weight * |sg[z] - e|^2 + commitment_weight * |z - sg[e]|^2`, a mean over all values of z, the encoder's
    output; sg stops gradients. The codes learn from the first term alone.

    The paper on VQ-VAE weights the second term with beta = 0.25. The code that trained the LDM paper's models weights
    the first one with it, by a mistake that its authors kept for the sake of earlier models (`legacy=True` in their
    `VectorQuantizer2`). The defaults here are the formula's; the configs of the LDM paper's models have its code's.

    A diffusion model is trained on latents before quantisation, which its decoder quantises, as in the LDM paper
    (appendix D.1), unless `quantized_latents` is set.

    Args:
        codes: Number n of codes.
        latent_channels: Length of a code: channels C of the raw latent.
        codebook_weight: Weight of the term that moves codes to the encoder's outputs.
        commitment_weight: Weight of the term that keeps the encoder's outputs near their codes, beta.
        revive_after: A code that was nearest to nothing for so many training batches is replaced by an output of the
            encoder for the batch, drawn at random by a generator of its own; None: unused codes stay. Averaged weights
            (EMA) follow a replaced code as slowly as all weights, so that it counts for them only after a while.
        quantized_latents: True: raw latents are those after quantisation.

    Raises:
        ValueError: If an option is out of its range.

    References:
        van den Oord et al., 2017, section 3, arXiv:1711.00937; Esser et al., 2021, section 3.1, arXiv:2012.09841.
    """

    moments_per_channel = 1
    metrics = ("quantization", "codebook_usage", "perplexity")

    batches: Tensor
    unused: Tensor

    def __init__(
        self,
        codes: int,
        latent_channels: int,
        *,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        revive_after: int | None = None,
        quantized_latents: bool = False,
    ) -> None:
        super().__init__()
        option = "autoencoder.network.regularizer"
        check(f"{option}.codes", codes, COUNT)
        check(f"{option}.latent_channels", latent_channels, COUNT)
        check(f"{option}.codebook_weight", codebook_weight, NOT_NEGATIVE)
        check(f"{option}.commitment_weight", commitment_weight, NOT_NEGATIVE)
        check(f"{option}.revive_after", revive_after, Optional(COUNT, "unused codes stay"))
        check(f"{option}.quantized_latents", quantized_latents, FLAG)
        self.codes = codes
        self.num_sums = codes
        self.codebook_weight = codebook_weight
        self.commitment_weight = commitment_weight
        self.revive_after = revive_after
        self.quantized_latents = quantized_latents
        self.codebook = nn.Embedding(codes, latent_channels)
        nn.init.uniform_(self.codebook.weight, -1.0 / codes, 1.0 / codes)
        if revive_after is not None:
            self.register_buffer("batches", torch.zeros((), dtype=torch.long))
            self.register_buffer("unused", torch.zeros(codes, dtype=torch.long))
        self._count: int | None = None  # `batches`, where they were read: a GPU is waited for once
        self.register_load_state_dict_post_hook(_forget_count)  # type: ignore[no-untyped-call]

    def forward(self, moments: Tensor) -> CodedPoint:
        """Return the raw latents of the encoder's outputs `(B, C, h, w)`, before or after quantisation."""
        if not self.quantized_latents:
            return CodedPoint(moments)
        indices = self.nearest(moments)
        return CodedPoint(self._snapped(moments, indices), moments, indices)

    def nearest(self, raw: Tensor) -> Tensor:
        """Return the index of the code that is nearest to each vector.

        Args:
            raw: Vectors, `(B, C, h, w)`.

        Returns:
            Indices, `(B, h, w)`, int64.
        """
        vectors = _vectors(raw)
        rows = max(1, DISTANCES_AT_ONCE // self.codes)
        found = [_nearest(part, self.codebook.weight) for part in torch.split(vectors, rows)]
        return torch.cat(found).view(raw.shape[0], *raw.shape[2:])

    def project(self, raw: Tensor, encoding: CodedPoint | None = None) -> Tensor:
        """Return the nearest codes; gradients pass straight through. See `Regularizer.project`."""
        if encoding is None or self.quantized_latents:  # then they are codes, and not the encoder's output
            return self._snapped(raw, self.nearest(raw))
        return self._snapped(raw, self._indices(encoding))

    def penalty(self, encoding: CodedPoint, values: int) -> Penalty:
        """Return the loss of eq. 3, log the mean squared distance to the codes, and count their use."""
        indices = self._indices(encoding)
        codes = self._codes_at(indices)
        codebook = (codes - encoding.features.detach()).square().mean()
        commitment = (encoding.features - codes.detach()).square().mean()
        loss = self.codebook_weight * codebook + self.commitment_weight * commitment
        return Penalty(loss, {"quantization": commitment}, self._uses(indices).float())

    def metrics_of(self, sums: Tensor) -> dict[str, Tensor]:
        """Return the fraction of codes that were used, in [0, 1], and their perplexity, in [1, n].

        Args:
            sums: The number of uses of each code, `(n,)`.
        """
        sums = float64(sums)
        fractions = sums / sums.sum()
        perplexity = torch.special.entr(fractions).sum().exp()
        return {"codebook_usage": (sums > 0).double().mean().float(), "perplexity": perplexity.float()}

    @torch.no_grad()
    def after_batch(self, encoding: CodedPoint, *, stepped: bool) -> None:
        """Replace codes that were not used for long, now that a step has moved them; see `Regularizer.after_batch`."""
        if self.revive_after is None or not self.codebook.weight.requires_grad:
            return
        uses = self._uses(self.nearest(encoding.features))
        if _several():
            dist.all_reduce(uses)
        self._count = (int(self.batches) if self._count is None else self._count) + 1
        self.batches += 1
        self.unused.add_(1).masked_fill_(uses > 0, 0)
        if not stepped:
            return
        dead = self.unused >= self.revive_after
        vectors = _vectors(encoding.features)
        generator = torch.Generator().manual_seed(self._count)
        drawn = torch.randint(len(vectors), (self.codes,), generator=generator).to(vectors.device, non_blocking=True)
        chosen = vectors[drawn[(dead.cumsum(0) - 1).clamp(min=0)]]  # how many are dead only the device knows
        if _several():
            dist.broadcast(chosen, 0)  # all processes take those of the first
        self.codebook.weight.copy_(torch.where(dead[:, None], chosen, self.codebook.weight))
        self.unused.masked_fill_(dead, 0)

    def initialize(self, layer: nn.Conv2d) -> None:
        """Check that codes are as long as its outputs.

        Raises:
            ValueError: If they are not.
        """
        length = self.codebook.embedding_dim
        if layer.out_channels != length:
            raise ValueError(
                f"autoencoder.network.regularizer.latent_channels={length} is not the number of channels of the raw latent, "
                f"autoencoder.network.latent_channels={layer.out_channels}; give the same"
            )

    def encoding_parts(self) -> Sequence[nn.Module]:
        """Return the codebook, where raw latents are those after quantisation."""
        return [self.codebook] if self.quantized_latents else []

    def _indices(self, encoding: CodedPoint) -> Tensor:
        """Return the indices `(B, h, w)` of the codes nearest to the encoder's output; they are looked for once."""
        if encoding.indices is None:
            encoding.indices = self.nearest(encoding.features)
        return encoding.indices

    def _snapped(self, raw: Tensor, indices: Tensor) -> Tensor:
        """Return the codes of indices `(B, h, w)` in place of raw latents `(B, C, h, w)`, whose gradients pass through."""
        raw = raw.float()
        return raw + (self._codes_at(indices) - raw).detach()

    def _codes_at(self, indices: Tensor) -> Tensor:
        """Return the codes `(B, C, h, w)` of indices `(B, h, w)`; gradients reach the codebook."""
        return F.embedding(indices, self.codebook.weight).permute(0, 3, 1, 2)

    def _uses(self, indices: Tensor) -> Tensor:
        """Return how often each code occurs among indices, `(n,)` int64."""
        found = indices.flatten()  # torch.bincount would wait for a GPU
        return found.new_zeros(self.codes).scatter_add_(0, found, torch.ones_like(found))


def _forget_count(regularizer: nn.Module, keys: object) -> None:
    """Forget the number of batches, for another was loaded (a hook after loading)."""
    assert isinstance(regularizer, VQRegularizer)
    regularizer._count = None


@torch.no_grad()
def _nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Return the index of the nearest of codes `(n, C)` for each of vectors `(N, C)`.

    The squares are added channel by channel: a matrix product would be computed in TF32 on GPUs, in which near codes are
    not distinguished, and C is small.
    """
    distances = vectors.new_zeros(len(vectors), len(codes))
    for values, others in zip(vectors.T, codes.float().T, strict=True):
        distances += (values[:, None] - others[None, :]).square_()
    return distances.argmin(1)


def _vectors(raw: Tensor) -> Tensor:
    """Return the vectors of all places of maps `(B, C, h, w)`, `(B * h * w, C)` fp32, without gradients."""
    return raw.detach().float().permute(0, 2, 3, 1).flatten(0, 2)


def _several() -> bool:
    """Return whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
