"""A name for what a file holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

BLOCK = 2**20
"""Bytes that are read at once."""


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits; the file is read."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
