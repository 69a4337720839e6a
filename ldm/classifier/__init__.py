"""Classifiers of noisy latents, for classifier guidance."""
