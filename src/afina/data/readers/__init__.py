"""Readers of tasks: they make splits from files, data sets of the Hub and downloaded packages.

The package does not import the modules of addresses, tokenizing or models.
"""
