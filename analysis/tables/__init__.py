"""One file a table; each registers itself by the decorator of `analysis.registry`."""
