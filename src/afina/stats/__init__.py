"""Metrics and their confidence intervals: pure functions of arrays that import nothing of runs, methods or tasks."""
