"""Degradations: from a finished image to the low-resolution image that a super-resolution model is given."""
