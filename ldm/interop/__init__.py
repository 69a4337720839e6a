"""Other people's checkpoints: their names and shapes of tensors, and ours, both ways."""
