"""Endings of the files that fields are read from, beside an image, its .txt and its .json."""

PARTS = ("cls", "seg.png", "depth.png", "mask.png", "weight.png", "neighbors.npy", "embedding.npy")
"""Endings, behind the name of an image and a dot."""

PART_NAMES = tuple(f".{ending}" for ending in PARTS if "." in ending)
"""Ends of the names of those files that say by themselves that they belong to an image: `a.seg.png`, but not `a.cls`."""
