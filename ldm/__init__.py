"""Latent diffusion models for text-to-image synthesis: training, evaluation and sampling."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
"""How long threads on a CPU wait for one another in a loop before they sleep. It is read as torch is loaded.

A U-Net step of the icons took on two cores 117 ms with OpenMP's default, 123 ms with this, and 183 ms where threads always
sleep; beside another busy process 360 to 430, 300 and 240 ms, and on other machines seconds with the default.
"""
