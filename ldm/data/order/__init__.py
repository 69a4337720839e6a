"""The order of samples in training: shuffling, and batch samplers."""
