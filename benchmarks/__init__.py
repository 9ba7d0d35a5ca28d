"""Measurements of speed and memory; each script prints a small table."""
