"""The progress display in a notebook: IPython shows it if the notebook's kernel has loaded IPython.

This package does not know the command line.
"""
