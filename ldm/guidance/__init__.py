"""Guidance: denoisers that wrap a denoiser, so that all kinds of guidance work with all samplers."""
