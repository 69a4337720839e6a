"""Mask generators: which pixels of an image an inpainting model has to make."""
