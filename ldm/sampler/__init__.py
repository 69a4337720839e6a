"""Samplers, which go from noise to latents, and their timestep spacings."""
