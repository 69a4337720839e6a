"""Captions -> Condition."""
