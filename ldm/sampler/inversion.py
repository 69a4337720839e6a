"""DDIM inversion: from an image back to the noise from which DDIM makes it."""

from __future__ import annotations

import torch
from torch import Tensor

from ldm.diffusion.schedule import Schedule
from ldm.sampler.base import made_steps
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import TimestepSpacing, UniformSpacing
from ldm.sampler.trajectory import Denoise, NoiseLevel, Trajectory


@torch.no_grad()
def invert(
    denoise: Denoise,
    schedule: Schedule,
    latent: Tensor,
    *,
    steps: int = 25,
    timestep_spacing: TimestepSpacing | None = None,
    strength: float = 1.0,
    tolerance: float = 1e-5,
    most: int = 50,
) -> Tensor:
    """Return the x_t from which `DDIM(steps, timestep_spacing=timestep_spacing)` makes the given clean latents.

    DDIM's step x_s = alpha_s x(x_t) + sigma_s / sigma_t (x_t - alpha_t x(x_t)), with the clean estimate x(x_t), is
    solved for x_t. Each step is solved exactly, by fixed-point iteration. It begins with the usual approximation, which
    takes the estimate at the end of the step for that at its start. Inversion and sampling together are then the
    identity up to rounding, not only up to the step size. The result for an image does not depend on the other images
    of the batch.

    Args:
        denoise: The denoiser, with condition and guidance inside.
        schedule: The noise schedule of the denoiser.
        latent: Clean latents, `(B, C, h, w)`.
        steps: Number of steps of the sampler.
        timestep_spacing: Timestep spacing of the sampler; None: `UniformSpacing`.
        strength: Fraction of the steps that are inverted, in [0, 1]: the last ones; see `StartPoint`.
        tolerance: Root mean square change of a latent at which its iteration ends.
        most: Largest number of iterations per step.

    Returns:
        x_t at the start of the first inverted step, `(B, C, h, w)`.

    Raises:
        ValueError: If a step does not converge (with more steps it does), or goes from pure noise to the image at once.

    References:
        Song et al., 2021, section 4.3, arXiv:2010.02502; Pan et al., 2023, section 3.2, arXiv:2309.04907.
    """
    trajectory = Trajectory(denoise, schedule, SeededNoise([]), latent.shape[1:], latent.device)
    noise_levels = trajectory.noise_levels((timestep_spacing or UniformSpacing()).times(steps, schedule))[
        -1 - made_steps(steps, strength) :
    ]
    x = latent
    for here, there in zip(noise_levels[-2::-1], noise_levels[:0:-1], strict=True):
        if not here.alpha and not there.sigma:
            raise ValueError("one step from pure noise to the image cannot be inverted; use more steps")
        end, moves = x, torch.ones(len(x), dtype=torch.bool, device=x.device)
        for _ in range(most):
            found = _start(end, trajectory.peek(x, here).clean, x, here, there)
            change = (found - x).flatten(1).square().mean(1).sqrt()
            x = torch.where(moves[:, None, None, None], found, x)
            moves = moves & (change >= tolerance)
            if not moves.any():
                break
        else:
            raise ValueError(
                f"the step from t = {there.t:.3g} to {here.t:.3g} cannot be inverted: {most} iterations do not converge; "
                "use more steps, or less guidance"
            )
    return x


def _start(end: Tensor, clean: Tensor, x: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Return the next iterate of the x_t from which a DDIM step leads to `end`.

    It uses the clean estimate, or the noise that this estimate means: whichever depends less on x for data of unit
    variance. With it, the iteration converges faster.

    Args:
        end: x_s at the noise level `there`, `(B, C, h, w)`.
        clean: Clean estimate at x, `(B, C, h, w)`.
        x: The last iterate, at the noise level `here`, `(B, C, h, w)`.
        here: Noise level at which the step starts.
        there: Lower noise level at which it ends.

    Returns:
        The next iterate, `(B, C, h, w)`.
    """
    kept, shrunk = there.sigma / here.sigma, here.alpha / there.alpha
    back = there.alpha - kept * here.alpha
    if kept and back * here.alpha < kept * (1.0 - shrunk * kept) * here.sigma**2:
        return (end - back * clean) / kept
    noise = (x - here.alpha * clean) / here.sigma
    return shrunk * end + (here.sigma - shrunk * there.sigma) * noise
