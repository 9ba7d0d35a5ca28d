"""Rows and score files on disk -> tidy frame -> intervals over seeds -> figures and tables.

Reads files only: no torch, no transformers, and nothing of `hies` or `experiments`.
"""

from analysis.rows import load, missing_jobs
from analysis.scores import load_arrays, load_scores
from analysis.statistics import summarise

__all__ = ["load", "load_arrays", "load_scores", "missing_jobs", "summarise"]
