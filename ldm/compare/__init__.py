"""Runs beside each other, and beside the expected curve of their experiment."""
