"""Averages of a run's weights, after it."""
