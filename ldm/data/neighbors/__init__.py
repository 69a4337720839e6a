"""Nearest neighbours of images in a database of images."""
