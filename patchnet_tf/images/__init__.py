"""Pixels in and out: the rules by which image files are read, and pictures of maps."""
