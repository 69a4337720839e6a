"""Fields -> Condition."""
