"""Tasks of one's own data: files and data sets that options name, with nothing to add to this repository."""
