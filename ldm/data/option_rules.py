"""The values that the options of data modules can have."""

from __future__ import annotations

from ldm.options.rule import COUNT, FLAG, FRACTION, SEED, SIZE, OneOf, Optional, Rule, Whole

OPTIONS: dict[str, Rule] = {
    "data.size": SIZE,
    "data.val_images": Optional(COUNT, "all of them"),
    "data.max_broken": FRACTION,
    "data.workers": Whole(0),
    "data.seed": SEED,
    "data.crop": OneOf(("center", "random")),
    "data.flip": FLAG,
    "data.cache_latents": FLAG,
    "data.streams": COUNT,
    "data.window": COUNT,
    "data.buffer": COUNT,
}
"""The rules of the options of data modules."""
