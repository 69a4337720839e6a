"""Measuring finished models by a protocol: generated images, reconstructions, or images of a folder."""
