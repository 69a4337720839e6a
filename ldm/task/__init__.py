"""Lightning: what a training step is."""
