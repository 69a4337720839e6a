"""Images -> cached latents, and captions -> cached tokens."""
