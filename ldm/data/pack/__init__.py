"""Packing: turn captioned images, in the forms that people have them in, into tar shards to train from."""
