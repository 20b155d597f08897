"""Endless, seeded worlds to train on: many shapes, many materials, quick to build and to render."""
