"""One file a figure; each registers itself by the decorator of `analysis.registry`."""
