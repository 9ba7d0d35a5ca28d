"""The Hydra app: it composes configurations into jobs, runs them, and mirrors their rows to W&B."""
