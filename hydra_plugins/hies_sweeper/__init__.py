"""Hydra's sweeper for the commands of `experiments`; Hydra looks for plugins in packages called `hydra_plugins` alone."""
