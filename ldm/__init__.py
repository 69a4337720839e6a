"""Latent diffusion models for text-to-image synthesis: training, evaluation and sampling."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
"""Read as torch is loaded. Threads that wait by spinning make each step many times slower where another process is busy."""
