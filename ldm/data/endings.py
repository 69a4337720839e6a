"""Endings of the files that fields are read from, beside an image, its .txt and its .json."""

PARTS = {
    "cls": "label",
    "seg.png": "segmentation",
    "depth.png": "depth",
    "mask.png": "mask",
    "weight.png": "loss_weight",
    "neighbors.npy": "neighbors",
    "embedding.npy": "image_embedding",
}
"""Endings, behind the name of an image and a dot -> the field that is read from such a file."""

PART_NAMES = tuple(f".{ending}" for ending in PARTS if "." in ending)
"""Ends of the names of those files that say by themselves that they belong to an image: `a.seg.png`, but not `a.cls`."""
