"""Guidance: denoisers that wrap a denoiser, so that every sampler works with every kind of guidance and knows none."""
