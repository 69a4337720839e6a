"""Frozen networks of others, which measure, align and guide: LPIPS, Inception, EfficientNet, vision encoders, CLIP."""
