"""Autoencoders of other layouts: names of tensors, options, and the scale of latents."""
