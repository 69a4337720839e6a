"""Captioned images as people have them -> tar shards to train from."""
