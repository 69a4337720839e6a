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
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
"""How long threads on a CPU wait for one another in a loop before they sleep. It is read as torch is loaded.

A U-Net step of the icons took on two cores 117 ms with OpenMP's default, 123 ms with this, and 183 ms where threads always
sleep; beside another busy process 360 to 430, 300 and 240 ms, and on other machines seconds with the default.
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
