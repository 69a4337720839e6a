"""Averages of a run's weights, chosen after training."""
