"""One pass over the calibration set, and the statistics of heads that it gives."""
