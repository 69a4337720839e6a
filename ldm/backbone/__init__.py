"""Backbones: networks from noisy latents, timesteps and conditions to predictions."""
