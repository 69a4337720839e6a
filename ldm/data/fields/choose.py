"""The choice of a reader for each field."""

from __future__ import annotations

from collections.abc import Iterable

from ldm.data.fields.base import FieldReader
from ldm.data.fields.boxes import BoxesReader
from ldm.data.fields.caption import CaptionReader
from ldm.data.fields.geometry import GeometryReader
from ldm.data.fields.label import LabelReader
from ldm.data.fields.maps import DepthReader, MaskReader, SegmentationReader
from ldm.data.transforms import CaptionChoice

COMPUTED = ("image", "moments", "text_tokens", "text_mask")
"""Fields that no reader reads: they come with the image, or with the latent."""


def choose_readers(fields: Iterable[str | FieldReader], caption: CaptionChoice) -> list[FieldReader]:
    """Return a reader for each field, but for those that are computed.

    Args:
        fields: Names of fields, or readers.
        caption: Where captions come from.

    Raises:
        ValueError: Where there is no field of some name.
    """
    readers: list[FieldReader] = [
        *(CaptionReader(caption), LabelReader(), BoxesReader()),
        *(SegmentationReader(), DepthReader(), MaskReader(), GeometryReader()),
    ]
    made = {reader.name: reader for reader in readers}
    given = list(fields)
    own = {reader.name: reader for reader in given if isinstance(reader, FieldReader)}
    names = dict.fromkeys(one.name if isinstance(one, FieldReader) else one for one in given)
    known = {**made, **own}
    for name in names:
        if name not in known and name not in COMPUTED:
            raise ValueError(f"there is no field {name!r}; choose from {', '.join([*COMPUTED, *known])}")
    return [known[name] for name in names if name in known]
