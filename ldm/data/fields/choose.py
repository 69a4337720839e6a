"""The choice of a reader for each field."""

from __future__ import annotations

from collections.abc import Iterable

from ldm.data.degradations.base import Degradation
from ldm.data.fields.base import FieldReader
from ldm.data.fields.boxes import BoxesReader
from ldm.data.fields.caption import CaptionReader
from ldm.data.fields.drawn_mask import DrawnMaskReader
from ldm.data.fields.embeddings import ImageEmbeddingReader, NeighborsReader
from ldm.data.fields.geometry import GeometryReader
from ldm.data.fields.label import LabelReader
from ldm.data.fields.low_resolution import LowResolutionReader
from ldm.data.fields.maps import DepthReader, LossWeightReader, MaskReader, SegmentationReader
from ldm.data.masks.base import MaskGenerator
from ldm.data.transforms import CaptionChoice

WITH_IMAGE = ("image", "moments", "text_tokens", "text_mask", "patch_features")
"""Fields that no reader reads: they come with the image, or with the latent."""


def choose_readers(
    fields: Iterable[str | FieldReader],
    caption: CaptionChoice,
    *,
    degradation: Degradation | None = None,
    mask: MaskGenerator | None = None,
) -> list[FieldReader]:
    """Return a reader for each field, but for those that come with the image.

    Args:
        fields: Names of fields, or readers.
        caption: Where captions come from.
        degradation: Computes `low_resolution`; None: there is no such field.
        mask: Draws `mask` for samples that have none; None: such samples are broken.

    Raises:
        ValueError: Where there is no field of some name.
    """
    readers: list[FieldReader] = [
        *(CaptionReader(caption), LabelReader(), BoxesReader()),
        *(SegmentationReader(), DepthReader(), MaskReader() if mask is None else DrawnMaskReader(mask)),
        *([] if degradation is None else [LowResolutionReader(degradation)]),
        *(NeighborsReader(), ImageEmbeddingReader(), LossWeightReader(), GeometryReader()),
    ]
    made = {reader.name: reader for reader in readers}
    given = list(fields)
    own = {reader.name: reader for reader in given if isinstance(reader, FieldReader)}
    names = dict.fromkeys(one.name if isinstance(one, FieldReader) else one for one in given)
    known = {**made, **own}
    for name in names:
        if name == LowResolutionReader.name and name not in known:
            raise ValueError("low_resolution is computed by a degradation, and there is none; type degradation=bicubic")
        if name not in known and name not in WITH_IMAGE:
            raise ValueError(f"there is no field {name!r}; choose from {', '.join([*WITH_IMAGE, *known])}")
    return [known[name] for name in names if name in known]
