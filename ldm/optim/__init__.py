"""Optimisation: learning rates over time."""
