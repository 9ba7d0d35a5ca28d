"""Greedy removal, one head at a time."""
