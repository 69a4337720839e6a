"""Latent diffusion models: training, evaluation and sampling.

from ldm import load

model = load("runs/txt2img")
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldm.checkpoint import load
    from ldm.model import LatentDiffusion

__version__ = "0.1.0"
__all__ = ["LatentDiffusion", "__version__", "load"]

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
"""How long threads on a CPU wait for one another in a loop before they sleep. It is read as torch is loaded.

On two cores of a Xeon the quickstart's U-Net trained 10.5 steps a second with OpenMP's default (300,000), 9.9 with this, and 5.7
with 1,000 (7.2, 6.3 and 4.3 when the machine was slower). A step beside another busy process took 0.98, 0.53 and 0.30 s.
"""


def __getattr__(name: str) -> Any:
    """Return `load` or `LatentDiffusion`, which are imported when they are asked for: they need torch, which takes seconds."""
    if name == "load":
        from ldm.checkpoint import load

        return load
    if name == "LatentDiffusion":
        from ldm.model import LatentDiffusion

        return LatentDiffusion
    raise AttributeError(f"module 'ldm' has no attribute {name!r}")
