"""Measuring finished models on images: how well a first stage reconstructs them."""
