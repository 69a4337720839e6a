"""A package outside ldm with one part of each kind; docs/add-a-part.md explains it."""
