"""Metrics and their uncertainty: pure functions of arrays. The package does not know runs, methods or tasks."""
