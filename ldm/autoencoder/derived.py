"""Fields that a model derives by its autoencoder: a conditioner asks for them by name, and needs no autoencoder of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ldm.autoencoder.base import Autoencoder
from ldm.batch import Fields, batch_size, tensor_field

HOLES = {"masked_latent": 0.0, "black_masked_latent": -1.0}
"""Name of the latent of a masked image -> the value of the pixels in its masked part, in [-1, 1]."""

DERIVED: dict[str, tuple[str, ...]] = {"latent_size": (), "image_size": (), **dict.fromkeys(HOLES, ("image", "mask"))}
"""Name of a derived field -> names of the fields that it is made of."""


def underlying_fields(inputs: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the fields that samples must have, for a conditioner that reads `inputs`."""
    return tuple(dict.fromkeys(source for name in inputs for source in DERIVED.get(name, (name,))))


def with_derived_fields(
    fields: Fields, inputs: Iterable[str], autoencoder: Autoencoder, *, size: Sequence[int]
) -> Fields:
    """Return fields with those derived ones that a conditioner asks for; what is there already stays.

    Nothing is drawn: the masked latent is the mean of its posterior, so that an image does not depend on others.

    Args:
        fields: The fields of a batch.
        inputs: Names of the fields that the conditioner reads.
        autoencoder: The autoencoder of the model.
        size: Height and width of the latents.

    Returns:
        The fields and the derived ones.

    Raises:
        ValueError: Where a field that one is made of is missing, or is of another size than the images to be made.
    """
    wanted = [name for name in inputs if name in DERIVED and name not in fields]
    found: Fields = {}
    image_size = [side * autoencoder.downsampling_factor for side in size]
    if "latent_size" in wanted:
        found["latent_size"] = torch.tensor([list(size)]).expand(batch_size(fields), -1)
    if "image_size" in wanted:
        found["image_size"] = torch.tensor([image_size]).expand(batch_size(fields), -1)
    for name in wanted:
        if name in HOLES:
            found[name] = _masked_latent(fields, autoencoder, image_size, hole=HOLES[name])
    return {**fields, **found}


@torch.no_grad()
def _masked_latent(fields: Fields, autoencoder: Autoencoder, size: Sequence[int], *, hole: float) -> Tensor:
    """Return the latents `(B, C, h, w)` of images whose masked part has one value."""
    if "image" not in fields:
        raise ValueError(
            f"this model sees the image without its masked part, but the fields that are there are: {', '.join(fields)}; give "
            "image and mask, too; cached latents cannot take their place: train with data.cache_latents=false, or on shards of "
            "images"
        )
    image, mask = (tensor_field(fields, name).to(autoencoder.shift.device) for name in ("image", "mask"))
    for name, given in (("image", image), ("mask", mask)):
        if list(given.shape[-2:]) != list(size):
            raise ValueError(
                f"the field {name} is of {given.shape[-2]} x {given.shape[-1]} pixels, but images of {size[0]} x {size[1]} are "
                "to be made; resize it, or give that size"
            )
    return autoencoder.to_latent(autoencoder.encode_frozen(image * (1.0 - mask) + hole * mask).mean)
