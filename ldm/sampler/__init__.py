"""Noise -> latent."""
