"""Rows and score files on disk -> tidy frame -> intervals over draws -> figures and tables.

Reads files only: no torch, no transformers, and of `hies` nothing but `hies.runs` and `hies.errors`.
"""

from analysis.data.rows import load, missing_jobs
from analysis.data.scores import load_arrays, load_scores
from analysis.stats.intervals import summarise

__all__ = ["load", "load_arrays", "load_scores", "missing_jobs", "summarise"]
