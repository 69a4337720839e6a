"""`python -m ldm.interop.export`: a model of ours in the layouts that other programs read."""
