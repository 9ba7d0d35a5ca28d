"""FLAP: the fluctuation score, and the pass that its statistic takes."""
