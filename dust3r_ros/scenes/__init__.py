"""Rendered worlds with exact truth: textured rooms, smooth camera paths, image sequences, bags."""
