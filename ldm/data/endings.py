"""Endings of the files that fields are read from, beside an image, its .txt and its .json."""

PARTS = ("cls", "seg.png", "depth.png", "mask.png", "weight.png", "neighbors.npy", "embedding.npy")
"""Endings, behind the name of an image and a dot."""
