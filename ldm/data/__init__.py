"""Captioned images -> shards -> batches."""
