"""Common layers of all networks: attention, residual blocks, embeddings."""
