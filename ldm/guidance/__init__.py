"""Guidance: denoisers that wrap a denoiser, so that every sampler gets every kind of guidance and knows of none."""
