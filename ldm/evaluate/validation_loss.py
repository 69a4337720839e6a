"""The validation loss of diffusion models, as an instrument."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.autoencoder.derived import with_derived_fields
from ldm.batch import Batch
from ldm.diffusion.noise_error import LEVELS, noise_error
from ldm.metric.totals import Totals
from ldm.model import LatentDiffusion
from ldm.pretrained.precision import float64
from ldm.sampler.noise import SeededNoise


class Measurement(NamedTuple):
    """The noise with which an image is measured.

    Attributes:
        seed: Seed of the noise.
        level: Place in `LEVELS` of the timestep.
    """

    seed: int
    level: int


def measurement(key: str) -> Measurement:
    """Return the noise with which the image of a key is measured, for ever: it is a hash of the key alone."""
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
    return Measurement(
        int.from_bytes(digest[:8], "big", signed=True), int.from_bytes(digest[8:16], "big") % len(LEVELS)
    )


class ValidationLoss(Totals):
    """The squared error of the predicted noise over all validation images, at each noise level of `LEVELS`.

    An image is measured at one timestep and with one noise, which follow from its key. So the figures do not depend on batch
    size, processes or the moment, and compare over predictions, weightings, criteria and timestep samplers; over schedules
    only with care, since the same t is another noise level there. Latents are the means of their posteriors, conditions are
    never dropped, and pixels count alike. MLPerf's benchmark of FLUX.1 measures in a similar way.
    """

    def __init__(self) -> None:
        super().__init__(2 * len(LEVELS))

    @torch.no_grad()
    def measure(self, model: LatentDiffusion, batch: Batch) -> None:
        """Add the errors of the images of a batch."""
        drawn = [measurement(key) for key in batch.key]
        x = model.autoencoder.mean_latent(batch)
        seeds = [one.seed for one in drawn]
        fields = {**batch.fields, "seed": torch.tensor(seeds)}
        fields = with_derived_fields(fields, model.conditioner.inputs, model.autoencoder, size=x.shape[-2:])
        z = SeededNoise(seeds).draw(x.shape[1:], x.device)
        levels = torch.tensor([one.level for one in drawn], device=x.device)
        t = torch.tensor(LEVELS, device=x.device)[levels]
        errors = noise_error(model.denoiser, x, z, t, condition=model.conditioner(fields))
        errors = float64(errors)
        levels = levels.to(errors.device)
        sums = torch.zeros(2, len(LEVELS), dtype=torch.float64, device=errors.device)
        sums[0].index_add_(0, levels, errors)
        sums[1].index_add_(0, levels, torch.ones_like(errors))
        self.update(sums.flatten())

    def scores(self) -> dict[str, Tensor]:
        """Return the scores over all processes, which all call it, and begin anew.

        Returns:
            `loss_t0.125` to `loss_t0.875`, the mean errors of the images of each level (without those levels that have no
            image), and `loss`, the mean of these.
        """
        totals, counts = self.compute().view(2, -1)
        self.reset()
        means = totals / counts
        there = counts > 0
        found = {level_name(t): mean for t, mean, some in zip(LEVELS, means, there.tolist(), strict=True) if some}
        return {**found, "loss": means[there].mean()}


def level_name(t: float) -> str:
    """Return the name of the score at a timestep, like `loss_t0.125`."""
    return f"loss_t{t:g}"


SCORES = ("loss", *map(level_name, LEVELS))
"""Names of all scores."""
