"""What is computed from rows: intervals, pairs of curves and the bootstrap of their differences."""
