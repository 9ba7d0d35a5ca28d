"""Hydra's sweeper for the commands of `experiments`: Hydra finds plugins in packages of this name alone."""
