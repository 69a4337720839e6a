"""Generated images -> numbers."""
