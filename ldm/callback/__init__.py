"""Lightning: what happens around training steps."""
