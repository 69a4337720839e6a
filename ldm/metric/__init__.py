"""Metrics: numbers that say how good generated images are."""
