"""Bringing pretrained weights of others to this machine, or into a folder for one without internet."""
