"""The values and words of options."""
