"""Metrics and their confidence intervals: pure functions of arrays, which do not know runs, methods or tasks."""
