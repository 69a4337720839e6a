"""Layers without ideas: attention, residual blocks, embeddings."""
