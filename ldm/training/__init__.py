"""Training a run: its folder, its stages one after another, and its results."""
