"""Readers of tasks: they make splits from files, data sets of the Hub and downloaded packages."""
