"""Figures and how sure they are: pure functions of arrays. Knows no run, no method and no task."""
