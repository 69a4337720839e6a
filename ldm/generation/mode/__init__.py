"""Modes: ways to make images, one class each."""
