"""Data sets that the project writes itself, as tar shards."""
