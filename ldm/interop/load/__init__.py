"""`python -m ldm.interop.load`: other people's weights into one file of ours."""
